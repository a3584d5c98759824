"""Agents on an edge: their links from TLS to the end, and which of them carry a tunnel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from penstock.edge.directory import Directory, closed_tunnels
from penstock.edge.returning import Returning
from penstock.edge.session import AgentSession
from penstock.protocol.http2 import Settings, WindowBudget
from penstock.protocol.notice import Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from uuid import UUID

    from structlog.typing import FilteringBoundLogger

    from penstock.edge.config import EdgeLimits
    from penstock.edge.feed import Feed
    from penstock.edge.metrics import EdgeMetrics
    from penstock.net.tasks import Tasks
    from penstock.schema.edges import LinkReport, LinkUsage

_GOODBYE: Final = 3.0  # seconds: TLS gives a peer two to end after us


class Sessions:
    """All links of one edge."""

    def __init__(
        self, *, feed: Feed, limits: EdgeLimits, metrics: EdgeMetrics, tasks: Tasks, log: FilteringBoundLogger
    ) -> None:
        self.name = ""
        """The edge's, once it knows it: agents are told where they are."""
        self.feed = feed
        self.limits = limits
        self.metrics = metrics
        self.tasks = tasks
        self.log = log
        self.settings = Settings(max_concurrent_streams=limits.streams_a_link)
        self.budget = WindowBudget(limits.buffer_bytes)
        self._stopping = False
        self._open: set[AgentSession] = set()
        self._registered: dict[UUID, set[AgentSession]] = {}
        self.returning = Returning(limits)
        self.worker: tuple[int, int] | None = None
        """Which of how many workers this is; None where there is one."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when the registered links are others than before."""
        self.on_leaving: Callable[[str], None] = lambda _: None
        """Called with the id of a link that its agent unregistered: its streams may finish, and no new ones come."""

    def has_room(self) -> bool:
        """Whether one more connection is taken. Asked before TLS: a stock agent retries a dial that failed, for ever, but ends
        its process when its first connection is closed between TLS and registration.
        """
        if not self._stopping and len(self._open) < self.limits.links:
            return True
        self.metrics.registrations.labels("busy").inc()
        return False

    def accept(self) -> asyncio.Protocol:
        """The protocol of one accepted connection."""
        return AgentSession(self).link

    def links_of(self, tunnel_id: UUID) -> Iterable[AgentSession]:
        """The registered links of a tunnel."""
        return self._registered.get(tunnel_id, ())

    def reports(self) -> Iterable[LinkReport]:
        """The registered links as the control plane is told of them."""
        return [session.report() for links in self._registered.values() for session in links]

    def usage(self) -> Iterable[LinkUsage]:
        """What the registered links carry."""
        return [session.usage() for links in self._registered.values() for session in links]

    @property
    def registered(self) -> int:
        """Links that carry streams or could."""
        return sum(map(len, self._registered.values()))

    @property
    def open(self) -> int:
        """Links that are up, registered or not."""
        return len(self._open)

    @property
    def load(self) -> int:
        """Streams open on all links, control streams too."""
        return sum(session.load for session in self._open)

    @property
    def buffered(self) -> int:
        """Bytes on their way to agents."""
        return sum(session.link.buffered for session in self._open)

    async def drain(self, seconds: float) -> None:
        """Take no new streams, let those that are open finish, and close every link; bounded by `seconds`."""
        self._stopping = True
        self.returning.end_all()
        for session in list(self._open):
            session.tell(Notice(draining=True))
            session.link.drain()
        if not await self._all_within((session.let_go() for session in list(self._open)), seconds):
            self.log.warning("streams cut at the end of the drain", links=len(self._open))
        for session in list(self._open):
            session.link.close()
        if not await self._all_within((session.link.gone() for session in list(self._open)), _GOODBYE):
            for session in list(self._open):
                session.link.abort()

    async def _all_within(self, waits: Iterable[Coroutine[None, None, None]], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for wait in waits:
                    group.create_task(wait)
        except TimeoutError:
            return False
        return True

    # --- what sessions report ---------------------------------------------------------------------------------------

    def opened(self, session: AgentSession) -> bool:
        """TLS is up; False when the edge has begun to stop meanwhile."""
        if not self._stopping:
            self._open.add(session)
        return not self._stopping

    def registered_as(self, session: AgentSession, tunnel_id: UUID) -> None:
        """It carries this tunnel's streams from now on."""
        self._registered.setdefault(tunnel_id, set()).add(session)
        self.returning.end((tunnel_id,))
        self.metrics.links.set(self.registered)
        self.on_change()

    def closed(self, session: AgentSession) -> None:
        """It is gone."""
        self._open.discard(session)
        self.unregistered(session)

    def unregistered(self, session: AgentSession) -> None:
        """It takes no new streams."""
        tunnel_id = session.tunnel_id
        links = self._registered.get(tunnel_id) if tunnel_id is not None else None
        if links is not None and tunnel_id is not None:
            links.discard(session)
            if not links:
                del self._registered[tunnel_id]
                self.returning.left(tunnel_id)
            self.on_change()
        self.metrics.links.set(self.registered)

    def follow(self, old: Directory, new: Directory) -> None:
        """The feed's news: links of archived tunnels end, and agents hear where the edges are."""
        self._close_unknown(new.tunnels.keys())
        self.returning.end(closed_tunnels(old, new))
        if new.news != old.news:
            for session in list(self._open):
                session.tell(new.news)

    def _close_unknown(self, known: Iterable[UUID]) -> None:
        """Archived: cut. A rotated secret closes nothing, as published; live links stay, new ones need the new value."""
        for tunnel_id in self._registered.keys() - set(known):
            for session in list(self._registered[tunnel_id]):
                self.log.info("link closed: its tunnel is archived", connector=session.connector_id)
                session.link.abort()
