"""Tunnels whose last link here ended a moment ago, and the callers that wait for the next one.

An agent that restarts is away for a second, and a tunnel with one agent has nobody else meanwhile: a caller that waits costs
less than a call that fails. Nobody waits for a tunnel that had no link just now, nor longer than `return_seconds` after it had.
The next link may come here, or at another edge: then whoever waits here is passed on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from uuid import UUID

    from penstock.edge.config import EdgeLimits


class Returning:
    """Those of one edge process."""

    def __init__(self, limits: EdgeLimits) -> None:
        self._seconds = limits.return_seconds
        self._most, self._most_a_tunnel = limits.held, limits.held_a_tunnel
        self._left: dict[UUID, float] = {}  # when, oldest first
        self._waiting: dict[UUID, set[asyncio.Future[None]]] = {}
        self.waiting = 0
        """Callers that wait now, for any tunnel."""
        self.on_awaited: Callable[[], None] = lambda: None
        """Called when the first caller waits for a tunnel."""

    def left(self, tunnel_id: UUID) -> None:
        """Its last link here ended."""
        now = asyncio.get_running_loop().time()
        while self._left and now - (oldest := next(iter(self._left.items())))[1] >= self._seconds:
            del self._left[oldest[0]]
        self._left.pop(tunnel_id, None)
        self._left[tunnel_id] = now

    def end(self, tunnel_ids: Iterable[UUID]) -> None:
        """There is a link again, or there is not to be one: whoever waits finds out which."""
        for tunnel_id in tunnel_ids:
            self._left.pop(tunnel_id, None)
            self.wake(tunnel_id)

    def wake(self, tunnel_id: UUID) -> None:
        """Another edge may have a link: whoever waits tries, and may wait again."""
        for woken in self._waiting.get(tunnel_id, ()):
            if not woken.done():
                woken.set_result(None)

    def awaited(self) -> Collection[UUID]:
        """The tunnels that somebody waits for."""
        return self._waiting.keys()

    def end_all(self) -> None:
        """The edge stops."""
        self.end([*self._left, *self._waiting])

    def may_wait(self, tunnel_id: UUID) -> bool:
        """Whether one more caller may."""
        has_room = self.waiting < self._most and len(self._waiting.get(tunnel_id, ())) < self._most_a_tunnel
        return has_room and self._seconds_left(tunnel_id) > 0

    async def wait(self, tunnel_id: UUID, *, again: bool = False) -> None:
        """Until it may have a link or nobody waits for one any more: then it is worth one more try.

        again: it was woken in vain.
        """
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(tunnel_id, set())
        if not waiting and not again:
            self.on_awaited()
        waiting.add(woken)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._seconds_left(tunnel_id)):
                await woken
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1
            waiting.discard(woken)
            if not waiting:
                self._waiting.pop(tunnel_id, None)

    def _seconds_left(self, tunnel_id: UUID) -> float:
        left = self._left.get(tunnel_id)
        return 0.0 if left is None else left + self._seconds - asyncio.get_running_loop().time()
