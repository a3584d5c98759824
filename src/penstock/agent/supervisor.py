"""Keeps an agent's links: one first, the others behind it, each again when it falls, elsewhere before its edge goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Final
from uuid import UUID

from penstock.agent import coverage
from penstock.agent.connection import EdgeConnection, LinkPlan, RegistrationRefusedError
from penstock.agent.held import Held
from penstock.agent.slots import Outcome, Slot
from penstock.errors import PenstockError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from penstock.agent.config import AgentConfig
    from penstock.agent.edges import Edges
    from penstock.agent.metrics import AgentMetrics
    from penstock.config.types import HostPort
    from penstock.net.tasks import Tasks
    from penstock.protocol.notice import Notice
    from penstock.protocol.registration import Registered

_NEWS_SPREAD: Final = 5.0
"""Seconds over which agents that hear of a new edge move to it: thousands hear of it at once."""
_COVER_TRIES: Final = 8
_WELCOME_SECONDS: Final = 2.0


class Supervisor:
    """All links of one agent. `on_refused` is asked after a refusal whether there is another token by now."""

    def __init__(
        self,
        config: AgentConfig,
        plan: LinkPlan,
        edges: Edges,
        *,
        most_links: int,
        metrics: AgentMetrics,
        tasks: Tasks,
        log: FilteringBoundLogger,
        random: Callable[[], float],
        on_refused: Callable[[], Awaitable[None]],
        on_notice: Callable[[Notice], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = config.limits
        self._least, self._most = config.ha_connections, most_links
        self._slots = [Slot(index, config.limits, random) for index in range(config.ha_connections)]
        self._plan = plan
        self._edges = edges
        self._metrics = metrics
        self._tasks = tasks
        self._log = log
        self._random = random
        self._on_refused = on_refused
        self._on_notice = on_notice
        self._clock = clock
        self._first = asyncio.Event()
        self._some = asyncio.Event()
        self._news = asyncio.Event()
        self._woken = asyncio.Event()
        self._stopping = False
        self._was_refused = False
        self._held: set[Held] = set()
        self._claims: Counter[HostPort] = Counter()  # links an edge has or is being asked for

    @property
    def registered(self) -> int:
        """Links that are registered now and not about to go."""
        return sum(not held.is_leaving for held in self._held)

    @property
    def _is_cut_off(self) -> bool:
        """No edge that is known now has a link of ours."""
        return not any(held.edge in self._edges.addresses for held in self._held)

    async def until_registered(self) -> None:
        """Returns when a link is registered."""
        await self._some.wait()

    @property
    def connections(self) -> Sequence[EdgeConnection]:
        """Links that live, those that are about to go too."""
        return tuple(held.connection for held in self._held)

    def start(self) -> None:
        """Begin with the first link; the others follow its registration, so that a wrong token is shown once."""
        for slot in self._slots:
            self._tasks.spawn(self._keep(slot), f"link {slot.index}")
        self._tasks.spawn(self._respread(), "respread")

    def use(self, plan: LinkPlan, *, anew: bool = False) -> None:
        """What links are dialled with from now on. Those that wait try at once; with `anew` the live ones are replaced too."""
        self._plan = plan
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()
        if anew:
            for held in self._held:
                held.replace(None)

    def learn(self, edges: Sequence[HostPort], *, are_given: bool = False) -> None:
        """These are all edges now; `are_given` by the token and not by an edge."""
        if self._edges.give(edges) if are_given else self._edges.learn(edges):
            self._log.info("edges learned", edges=[str(edge) for edge in self._edges.addresses])
            self._news.set()

    async def stop(self, grace: float) -> None:
        """Unregister every link and wait until the edges have closed them, at most `grace` seconds; then cut the rest."""
        self._stopping = True
        try:
            async with asyncio.timeout(grace):
                for held in list(self._held):
                    await self._leave(held)
                while self._held:
                    await asyncio.wait([asyncio.shield(connection.gone) for connection in self.connections])
                    await asyncio.sleep(0)  # those that serve them have their turn
        except TimeoutError:
            self._log.warning("streams cut at the end of the grace period", links=len(self._held))
        cut = self.connections
        for connection in cut:
            connection.abort()
        if cut:
            await asyncio.wait([connection.gone for connection in cut], timeout=1.0)

    # --- one slot ---------------------------------------------------------------------------------------------------

    async def _keep(self, slot: Slot) -> None:
        """One slot's links for as long as the agent runs; what nobody foresaw costs it a wait, and never the slot."""
        if slot.index:
            await self._first.wait()
        while not self._stopping:
            try:
                await self._fill(slot)
            except Exception as exc:  # noqa: BLE001 - it is told, and a link is wanted all the same
                self._log.error("link failed", connIndex=slot.index, exc_info=exc)
                self._first.set()
                await self._pause(slot.wait_after(Outcome.UNREACHABLE))

    async def _fill(self, slot: Slot) -> None:
        """One link after the other; returns when the agent stops."""
        before: Held | None = None
        after: Held | None = None
        while not self._stopping:
            held, after = after or await self._register(slot), None
            if held is None:
                return
            if before is not None:
                await self._leave(before)
                before = None
            lost = self._tasks.spawn(self._serve(held), f"link {slot.index} at {held.edge}")
            await asyncio.wait({lost, held.replaced}, return_when=asyncio.FIRST_COMPLETED)
            if not lost.done():
                before, after = held, held.replaced.result()
                continue
            wait = slot.wait_after(Outcome.LOST, lasted=self._clock() - held.since)
            self._edges.avoid(held.edge, self._clock() + self._limits.avoid_seconds)
            if not self._stopping:
                await self._pause(wait)

    async def _register(self, slot: Slot) -> Held | None:
        """Try until a link is registered; None when the agent stops before."""
        while not self._stopping:
            edge = self._edges.choose(self._claims, self._clock(), is_cut_off=self._is_cut_off)
            try:
                return await self._try(slot, edge)
            except RegistrationRefusedError as exc:
                if self._stopping:
                    break
                wait = slot.wait_after(Outcome.REFUSED, retry_after=exc.retry_after)
                self._say_refused(slot, edge, exc)
                woken = self._woken
                await self._on_refused()
                if self._woken is woken:  # no other token meanwhile
                    await self._pause(wait)
            except PenstockError as exc:
                if self._stopping:
                    break
                wait = slot.wait_after(Outcome.UNREACHABLE)
                self._say_unreachable(slot, edge, exc, wait)
                self._first.set()
                await self._pause(wait)
        return None

    async def _try(self, slot: Slot, edge: HostPort) -> Held:
        """One link to one edge, registered; RegistrationRefusedError, or PenstockError and the edge is avoided for a while.

        No other exception: a mistake of ours costs a try, and not the slot.
        """
        connection = EdgeConnection(self._plan, slot.index, edge, attempts=slot.attempts)
        self._claims[edge] += 1
        held: Held | None = None
        worker: tuple[int, int] | None = None

        def noticed(notice: Notice) -> None:
            nonlocal worker
            if notice.draining and held is not None:
                self._edge_drains(held)
            if notice.worker is not None:
                worker = notice.worker
                if held is not None:
                    held.place(worker)
                self._news.set()
            self._on_notice(notice)

        connection.on_notice = noticed
        try:
            registered = await connection.register()
        except BaseException as exc:
            self._claims[edge] -= 1
            refused = isinstance(exc, RegistrationRefusedError)
            self._metrics.tries.labels("refused" if refused else "unreachable").inc()
            if not refused:
                self._edges.avoid(edge, self._clock() + self._limits.avoid_seconds)
            if isinstance(exc, PenstockError) or not isinstance(exc, Exception):
                raise
            self._log.error("link failed", connIndex=slot.index, edge=str(edge), exc_info=exc)
            raise UnavailableError("the link failed by a mistake of ours", detail=f"{type(exc).__name__}: {exc}") from exc
        held = Held(slot, edge, connection, self._clock())
        if worker is not None:
            held.place(worker)
        self._held.add(held)
        self._registered(held, registered)
        return held

    def _registered(self, held: Held, registered: Registered) -> None:
        self._was_refused = False
        self._edges.works(held.edge)
        self._metrics.tries.labels("registered").inc()
        self._count()
        self._first.set()
        self._log.info(
            "Registered tunnel connection",
            connIndex=held.slot.index,
            connection=str(UUID(bytes=registered.uuid)),
            location=registered.location,
            edge=str(held.edge),
            protocol="http2",
        )

    async def _serve(self, held: Held) -> None:
        """The link's whole life after its registration."""
        try:
            if self._stopping:
                await self._leave(held)  # it registered after `stop` had gone round
            await held.connection.serve()
        finally:
            held.connection.abort()
            self._held.discard(held)
            self._claims[held.edge] -= 1
            self._count()
            self._log.info(
                "Unregistered tunnel connection",
                connIndex=held.slot.index,
                edge=str(held.edge),
                reason=held.connection.reason,
            )

    async def _leave(self, held: Held) -> None:
        held.is_leaving = True
        self._count()
        await held.connection.unregister()

    def _count(self) -> None:
        registered = self.registered
        self._metrics.links.set(registered)
        if registered:
            self._some.set()
        else:
            self._some.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not past a change of the token."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    # --- moving -----------------------------------------------------------------------------------------------------

    def _edge_drains(self, held: Held) -> None:
        now = self._clock()
        self._edges.avoid(held.edge, now + self._limits.avoid_seconds)
        self._log.info("edge drains", connIndex=held.slot.index, edge=str(held.edge))
        if self._edges.others(held.edge, now):
            held.replace(None)
        else:  # nobody to wait for: the sooner this link is over, the sooner the edge is back
            self._tasks.spawn(self._leave(held), "leave")

    async def _respread(self) -> None:
        """Moves one link at a time from the fullest edge to the emptiest, the new one first."""
        while True:
            wait = self._limits.respread_interval * (0.5 + self._random() / 2)
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
                self._news.clear()
                await asyncio.sleep(min(_NEWS_SPREAD, wait) * self._random())
            except TimeoutError:
                pass
            while not self._stopping and (move := self._edges.uneven(self._claims, self._clock())) is not None:
                if not await self._move(*move):
                    break
            await self._cover()

    async def _move(self, origin: HostPort, to: HostPort) -> bool:
        held = next((h for h in self._held if h.edge == origin and not h.is_leaving and not h.replaced.done()), None)
        if held is None:
            return False
        try:
            other = await self._try(held.slot, to)
        except PenstockError as exc:
            self._log.info("link not moved", origin=str(origin), to=str(to), error=exc.public, detail=exc.detail)
            return False
        if held.connection.gone.done() or held.replaced.done():
            # Its slot is dialling already: this link is one too many.
            self._tasks.spawn(self._serve(other), "moved in vain")
            await self._leave(other)
            return False
        held.replace(other)
        return True

    async def _cover(self) -> None:
        """A link at each worker of each edge. Which one a link gets is chance: so many tries now, and more the next time."""
        while len(self._slots) < coverage.wanted(self._held, self._least, self._most) and not self._stopping:
            slot = Slot(len(self._slots), self._limits, self._random)
            self._slots.append(slot)
            self._tasks.spawn(self._keep(slot), f"link {slot.index}")
        for _ in range(_COVER_TRIES):
            settled = [held for held in self._held if not held.is_leaving and not held.replaced.done()]
            moving = coverage.surplus(settled)
            if moving is None or self._stopping or not await self._try_worker(moving, settled):
                return

    async def _try_worker(self, moving: Held, settled: list[Held]) -> bool:
        """One more link in the place of `moving`, if it lands where none is; False when the edge does not take it."""
        try:
            other = await self._try(moving.slot, moving.edge)
        except PenstockError:
            return False
        async with contextlib.AsyncExitStack() as unless_kept:
            unless_kept.push_async_callback(self._give_back, other)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WELCOME_SECONDS):  # it is said right behind the answer to the registration
                    await other.placed.wait()
            covered = coverage.held(settled, moving.edge)
            still = not (moving.connection.gone.done() or moving.replaced.done())
            if still and other.worker is not None and other.worker[0] not in covered:
                unless_kept.pop_all()
                moving.replace(other)
        return True

    async def _give_back(self, held: Held) -> None:
        self._tasks.spawn(self._serve(held), "link in vain")
        await self._leave(held)

    # --- what is said -----------------------------------------------------------------------------------------------

    def _say_refused(self, slot: Slot, edge: HostPort, exc: RegistrationRefusedError) -> None:
        """Four links are refused for one reason, which is said once, until a link registers again."""
        say = self._log.debug if self._was_refused else self._log.error
        self._was_refused = True
        say("registration refused", connIndex=slot.index, edge=str(edge), error=exc.public, hint=exc.hint)

    def _say_unreachable(self, slot: Slot, edge: HostPort, exc: PenstockError, wait: float) -> None:
        self._log.warning(
            "edge unreachable",
            connIndex=slot.index,
            edge=str(edge),
            error=exc.public,
            detail=exc.detail,
            hint=exc.hint,
            retry_in=round(wait, 1),
        )
