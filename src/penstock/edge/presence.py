"""Tells the control plane which links this edge holds, and learns which edges hold the others.

A report every few seconds renews the lease; a change is told at once, and only changes carry the links. Control away: what was
learned last goes on being the hint it always was.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID, uuid4

from penstock.errors import PenstockError, UnavailableError
from penstock.schema.edges import LinkReport, LinkUsage, PresenceAnswer, PresenceReport

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from structlog.typing import FilteringBoundLogger

_USAGE_EVERY: Final = 10.0  # seconds: people read it, and each change is a row written
_EVERY: Final = 3.0  # seconds; the lease is 10
_AWAITED: Final = 0.5  # while callers wait to hear where their tunnel's next link is, which is for a few seconds at most
_GATHER: Final = 0.05  # an agent's links come and go together: one report for them
_GOODBYE: Final = 2.0  # a stop does not wait longer for a control plane that is away


class SilenceError(UnavailableError):
    """The control plane did not answer at all."""


class Reporter(Protocol):
    """How a report gets to the control plane. Raises PenstockError; SilenceError where there is no answer."""

    async def report(self, report: PresenceReport) -> PresenceAnswer:
        """The answer."""
        ...

    async def withdraw(self, incarnation: str) -> None:
        """Say that this incarnation is no more."""
        ...


class Presence:
    """One edge process's presence."""

    def __init__(
        self,
        links: Callable[[], Iterable[LinkReport]],
        log: FilteringBoundLogger,
        *,
        usage: Callable[[], Iterable[LinkUsage]] = tuple,
        on_silence: Callable[[], None] = lambda: None,
        awaited: Callable[[], Collection[UUID]] = tuple,
        on_found: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        """awaited: the tunnels whose next link somebody waits for; `on_found` is called with one that others hold by now."""
        self.incarnation = str(uuid4())
        self._links = links
        self._usage = usage
        self._on_silence = on_silence
        self._awaited = awaited
        self._on_found = on_found
        self._used: Mapping[str, LinkUsage] = {}
        self._used_at = 0.0
        self._log = log
        self._changed = asyncio.Event()
        self._is_draining = False
        self._said: tuple[LinkReport, ...] | None = None
        self._holders: Mapping[UUID, tuple[str, ...]] = {}

    def holders(self, tunnel_id: UUID) -> tuple[str, ...]:
        """Names of the other edges that were last heard to hold this tunnel."""
        return self._holders.get(tunnel_id, ())

    def change(self) -> None:
        """There is something to tell or to ask at once: the links are others, or somebody waits for one."""
        self._changed.set()

    def drain(self) -> None:
        """Nobody is to be sent here any more."""
        self._is_draining = True
        self._changed.set()

    async def keep(self, reporter: Reporter) -> None:
        """Report for ever."""
        heard = True
        while True:
            try:
                await self._report(reporter)
                heard = True
            except PenstockError as exc:
                if heard:  # the feed's follower says the rest, and often enough
                    self._log.warning("presence not reported", reason=exc.public, detail=exc.detail)
                heard = False
                if isinstance(exc, SilenceError):
                    self._on_silence()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    _AWAITED if self._awaited() else _EVERY
                ):  # not `wait_for`: before 3.12 that loses a cancellation
                    await self._changed.wait()
                await asyncio.sleep(_GATHER)

    async def leave(self, reporter: Reporter) -> None:
        """Take the lease back, if control answers soon."""
        with contextlib.suppress(TimeoutError, PenstockError):
            async with asyncio.timeout(_GOODBYE):
                await reporter.withdraw(self.incarnation)

    async def _report(self, reporter: Reporter) -> None:
        self._changed.clear()
        links = tuple(self._links())
        news = links if links != self._said else None
        usage = self._new_usage(all_of_it=news is not None)
        self._said = None  # until the answer is here, nothing is known to be told
        answer = await reporter.report(
            PresenceReport(incarnation=self.incarnation, is_draining=self._is_draining, links=news, usage=usage)
        )
        self._said = links if answer.is_known else None
        if not answer.is_known:
            self._changed.set()
        self._holders = {UUID(wire_id): names for wire_id, names in answer.holders.items()}
        for tunnel_id in [awaited for awaited in self._awaited() if awaited in self._holders]:
            self._on_found(tunnel_id)

    def _new_usage(self, *, all_of_it: bool) -> tuple[LinkUsage, ...]:
        now = asyncio.get_running_loop().time()
        if not all_of_it and now - self._used_at < _USAGE_EVERY:
            return ()
        before, self._used = self._used, {usage.id: usage for usage in self._usage()}
        self._used_at = now
        return tuple(usage for usage in self._used.values() if all_of_it or before.get(usage.id) != usage)
