"""Keeps an agent's links: one first, the others at once when it is registered, each again when it falls."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import UUID

from penstock.agent.connection import EdgeConnection, LinkPlan, RegistrationRefusedError
from penstock.agent.slots import Outcome, Slot
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from penstock.agent.config import AgentConfig
    from penstock.agent.metrics import AgentMetrics
    from penstock.config.types import HostPort
    from penstock.net.tasks import Tasks


class Supervisor:
    """All links of one agent."""

    def __init__(
        self,
        config: AgentConfig,
        plan: LinkPlan,
        edges: Sequence[HostPort],
        *,
        metrics: AgentMetrics,
        tasks: Tasks,
        log: FilteringBoundLogger,
        random: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = config.limits
        offset = int(random() * len(edges))  # agents differ in where they begin, or all would fill the first edge
        self._slots = [
            Slot(
                index,
                edges,
                offset=offset,
                random=random,
                first=limits.backoff_first,
                most=limits.backoff_most,
                refused=limits.refused_wait,
            )
            for index in range(config.ha_connections)
        ]
        self._plan = plan
        self._metrics = metrics
        self._tasks = tasks
        self._log = log
        self._clock = clock
        self._first = asyncio.Event()
        self._stopping = False
        self._was_refused = False
        self._registered: dict[int, EdgeConnection] = {}

    @property
    def registered(self) -> int:
        """Links that are registered now."""
        return len(self._registered)

    @property
    def connections(self) -> Sequence[EdgeConnection]:
        """Those links."""
        return tuple(self._registered.values())

    def start(self) -> None:
        """Begin with the first link; the others follow its registration, so that a wrong token is shown once."""
        for slot in self._slots:
            self._tasks.spawn(self._keep(slot), f"link {slot.index}")

    async def stop(self, grace: float) -> None:
        """Unregister every link and wait until the edges have closed them, at most `grace` seconds; then cut the rest."""
        self._stopping = True
        connections = self.connections
        try:
            async with asyncio.timeout(grace):
                for connection in connections:
                    await connection.unregister()
                while self._registered:
                    await asyncio.wait([asyncio.shield(connection.gone) for connection in self.connections])
        except TimeoutError:
            self._log.warning("streams cut at the end of the grace period", links=len(self._registered))
        cut = self.connections
        for connection in cut:
            connection.abort()
        if cut:
            await asyncio.wait([connection.gone for connection in cut], timeout=1.0)

    # --- one slot ---------------------------------------------------------------------------------------------------

    async def _keep(self, slot: Slot) -> None:
        if slot.index:
            await self._first.wait()
        while not self._stopping:
            wait = await self._once(slot)
            if not self._stopping:
                await asyncio.sleep(wait)

    async def _once(self, slot: Slot) -> float:
        """One try and, if it succeeds, the link's whole life; the wait before the next one."""
        edge = slot.edge
        connection = EdgeConnection(self._plan, slot.index, edge, attempts=slot.attempts)
        try:
            registered = await connection.register()
        except RegistrationRefusedError as exc:
            self._metrics.tries.labels("refused").inc()
            self._refused(slot, edge, exc)
            return slot.wait_after(Outcome.REFUSED, retry_after=exc.retry_after)
        except PenstockError as exc:
            self._metrics.tries.labels("unreachable").inc()
            wait = slot.wait_after(Outcome.UNREACHABLE)
            self._log.warning(
                "edge unreachable",
                connIndex=slot.index,
                edge=str(edge),
                error=exc.public,
                detail=exc.detail,
                hint=exc.hint,
                retry_in=round(wait, 1),
            )
            return wait
        self._metrics.tries.labels("registered").inc()
        self._log.info(
            "Registered tunnel connection",
            connIndex=slot.index,
            connection=str(UUID(bytes=registered.uuid)),
            location=registered.location,
            edge=str(edge),
            protocol="http2",
        )
        return await self._hold(slot, edge, connection)

    async def _hold(self, slot: Slot, edge: HostPort, connection: EdgeConnection) -> float:
        self._was_refused = False
        self._registered[slot.index] = connection
        self._metrics.links.set(len(self._registered))
        self._first.set()
        since = self._clock()
        try:
            if self._stopping:
                await connection.unregister()  # it registered after `stop` had gone round
            await connection.serve()
        finally:
            connection.abort()
            del self._registered[slot.index]
            self._metrics.links.set(len(self._registered))
        wait = slot.wait_after(Outcome.LOST, lasted=self._clock() - since)
        self._log.info("Unregistered tunnel connection", connIndex=slot.index, edge=str(edge), retry_in=round(wait, 1))
        return wait

    def _refused(self, slot: Slot, edge: HostPort, exc: RegistrationRefusedError) -> None:
        """Four links are refused for one reason, which is said once, until a link registers again."""
        say = self._log.debug if self._was_refused else self._log.error
        self._was_refused = True
        say("registration refused", connIndex=slot.index, edge=str(edge), error=exc.public, hint=exc.hint)
