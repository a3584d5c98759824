"""The composition root of an edge."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.config.files import named_by
from penstock.config.types import HostPort
from penstock.edge.control import ControlPlane
from penstock.edge.enrol import Enrolment
from penstock.edge.feed import Feed
from penstock.edge.files import limits_that_hold
from penstock.edge.follow import Follower
from penstock.edge.ingress import Ingress
from penstock.edge.kept import Kept
from penstock.edge.metrics import EdgeMetrics
from penstock.edge.peers import Peers
from penstock.edge.presence import Presence
from penstock.edge.renewal import Presented, Renewal
from penstock.edge.reports import ControlReporter
from penstock.edge.sessions import Sessions
from penstock.edge.sources import Sources
from penstock.edge.state import EdgeIdentity, EdgeState
from penstock.errors import PenstockError
from penstock.net.arrivals import Arrivals
from penstock.net.listen import Listener, check_bindable, listen_tls, listen_unix
from penstock.net.sockets import peer_of
from penstock.net.tasks import Tasks
from penstock.telemetry.health import AdminServer, healthz, readyz
from penstock.telemetry.log import get_logger
from penstock.telemetry.metrics import metrics_page, new_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from cryptography.x509 import Certificate

    from penstock.edge.config import EdgeConfig
    from penstock.edge.presence import Reporter
    from penstock.tls.contexts import TLSContext


class Edge:
    """One edge. `start` returns when it listens; `stop` lets streams finish, within `limits.stop_seconds`."""

    def __init__(self, config: EdgeConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._log = get_logger("edge")
        config = self._config = config.model_copy(update={"limits": limits_that_hold(config.limits, self._log)})
        self._tasks = Tasks(self._failed)
        registry = new_registry()
        metrics = self.metrics = EdgeMetrics.on(registry)
        self.feed = Feed(stale_limit=config.stale_limit, clock=clock, on_error=self._failed)
        metrics.feed_interrupted.set_function(lambda: float(self.feed.is_interrupted))
        self._state = EdgeState(config.state_dir)
        self._control = ControlPlane(config)
        kept = Kept(self._state, self._log, writes=not config.worker)
        self._follower = Follower(self._control, kept, self.feed, self._log, clock=clock)
        self.sessions = Sessions(feed=self.feed, limits=config.limits, metrics=metrics, tasks=self._tasks, log=self._log)
        if config.worker is not None and config.workers > 1:
            self.sessions.worker = (config.worker, config.workers)
        returning = self.sessions.returning
        self._presence = Presence(
            self.sessions.reports,
            self._log,
            usage=self.sessions.usage,
            on_silence=self._follower.doubt,
            awaited=returning.awaited,
            on_found=returning.wake,
        )
        self.sessions.on_change = returning.on_awaited = self._presence.change
        self._peers = Peers(
            name=lambda: self.sessions.name,
            context=self._peer_context,
            holders=self._presence.holders,
            siblings=config.sibling_sockets,
            open_seconds=config.limits.open_seconds,
        )
        self._arrivals = Arrivals(config.limits.arriving, on_displaced=metrics.displaced.inc)
        self.ingress = Ingress(
            peers=self._peers,
            callers_ca=self._trusted_callers,
            sources=None if config.caller_networks is None else Sources(config.caller_networks),
            arrivals=self._arrivals,
            feed=self.feed,
            sessions=self.sessions,
            limits=config.limits,
            metrics=metrics,
            tasks=self._tasks,
            log=self._log,
        )
        self.sessions.on_leaving = self.ingress.link_leaves
        self.feed.listen(self.ingress.follow)  # first: nothing stands between a revocation and the streams it ends
        self.feed.listen(self.sessions.follow)
        self.feed.listen(lambda _, new: metrics.feed_version.set(new.version))
        pages = {"/healthz": healthz, "/readyz": readyz(self.why_not_ready), "/metrics": metrics_page(registry)}
        self._admin = AdminServer(config.admin_addr, pages) if config.admin_addr is not None else None
        self._reporter: Reporter | None = None
        self._presented: Presented | None = None
        self._following: asyncio.Task[None] | None = None
        self._workers: Listener | None = None
        self._callers: Listener | None = None
        self._agents: Listener | None = None

    # --- addresses --------------------------------------------------------------------------------------------------

    @property
    def callers_address(self) -> HostPort:
        """Where callers are accepted, as bound."""
        return _bound(self._callers)

    @property
    def agents_address(self) -> HostPort:
        """Where agents are accepted, as bound."""
        return _bound(self._agents)

    @property
    def admin_address(self) -> HostPort | None:
        """The admin port, as bound."""
        return self._admin.address if self._admin is not None else None

    @property
    def buffered(self) -> int:
        """Bytes on their way to agents and callers that the operating system has not taken: what slow readers cost."""
        return self.sessions.buffered + self.ingress.buffered

    def why_not_ready(self) -> str | None:
        """None when streams can be decided on."""
        if self._callers is None:
            return "not started"
        if self._following is None or self._following.done():
            return "the control plane is not followed"
        if self._follower.is_unknown:
            return "the control plane no longer knows this edge"
        return "no word from the control plane" if self.feed.is_stale else None

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, enrol if need be, catch up with the feed, accept. What was begun is undone when it fails."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self._config
        if self._admin is not None:
            await self._admin.start()
        # Before a token is spent on an edge that cannot listen.
        for setting, address in (("callers_addr", config.callers_addr), ("agents_addr", config.agents_addr)):
            with named_by(setting):
                await check_bindable(address.host, address.port, is_shared=config.is_worker)
        identity: EdgeIdentity = await Enrolment(config, self._state, self._control, self._log).identify()
        self.sessions.name = identity.name
        await self._follower.catch_up(identity)
        self._following = self._tasks.keep(lambda: self._follower.follow(identity), "feed")
        presented = self._presented = Presented(identity)
        self.feed.listen(lambda _, new: self._callers_ca(presented, new.caller_ca_pem))
        self._callers_ca(presented, self.feed.directory.caller_ca_pem)
        renewal = Renewal(presented, self._control, self._state, metrics=self.metrics, log=self._log)
        # One of several workers renews, the others take over what it wrote.
        self._tasks.keep(renewal.follow if config.worker else renewal.keep, "renewal")
        limits = config.limits
        self._agents = await listen_tls(
            config.agents_addr.host,
            config.agents_addr.port,
            self.sessions.accept,
            context=presented.agents,
            is_shared=config.is_worker,
            handshake_timeout=limits.registration_seconds,
            on_failed=self._handshake_failed,
            has_room=self.sessions.has_room,
            arrivals=self._arrivals,
        )
        balancers = Sources(config.balancer_networks)
        self._callers = await listen_tls(
            config.callers_addr.host,
            config.callers_addr.port,
            self.ingress.accept,
            context=presented.callers,
            is_shared=config.is_worker,
            handshake_timeout=limits.head_seconds,
            on_failed=self._handshake_failed,
            is_announced=lambda host: host in balancers,
            arrivals=self._arrivals,
        )
        if config.worker_socket is not None:
            self._workers = await listen_unix(config.worker_socket, self.ingress.accept_worker)
        reporter = self._reporter = ControlReporter(self._control.client, identity)
        self._tasks.keep(lambda: self._presence.keep(reporter), "presence")
        self._tasks.keep(self.ingress.events.keep_alive, "keep alive")
        self._log.info("edge listening", callers=str(self.callers_address), agents=str(self.agents_address))

    async def stop(self) -> None:
        """Accept nothing new, let streams finish, close. One step that fails keeps none of the others from being taken."""
        for listener in (self._callers, self._agents, self._workers):
            if listener is not None:
                listener.close()
        self._presence.drain()
        seconds = self._config.limits.stop_seconds
        async with asyncio.TaskGroup() as drains:
            drains.create_task(self._step("drain callers", self.ingress.drain(seconds)))
            drains.create_task(self._step("drain agents", self.sessions.drain(seconds)))
        await self._step("end tasks", self._tasks.aclose())
        if self._reporter is not None:
            await self._step("leave", self._presence.leave(self._reporter))
            self._reporter = None
        await self._step("let go of control", self._control.aclose())
        if self._admin is not None:
            await self._step("close admin port", self._admin.stop())
        self._callers = self._agents = self._workers = None

    async def _step(self, name: str, step: Coroutine[None, None, None]) -> None:
        try:
            await step
        except Exception as exc:  # noqa: BLE001 - said, and the next step is taken all the same
            self._failed(name, exc)

    def _peer_context(self) -> TLSContext | None:
        return None if self._presented is None else self._presented.peer()

    def _trusted_callers(self) -> Sequence[Certificate]:
        return () if self._presented is None else self._presented.caller_cas

    def _callers_ca(self, presented: Presented, pem: str) -> None:
        """An organization came or went: its caller CA is asked for from the next connection on."""
        if not pem or pem == presented.identity.caller_ca_pem:
            return
        try:
            presented.use(replace(presented.identity, caller_ca_pem=pem))
        except PenstockError as exc:
            self._log.error("caller CAs not taken over", reason=exc.public, detail=exc.detail)

    def _handshake_failed(self, exc: Exception, transport: asyncio.Transport) -> None:
        self._log.info("tls handshake failed", reason=str(exc), peer=str(peer_of(transport)))

    def _failed(self, name: str, exc: BaseException) -> None:
        self._log.error("background task failed", task=name, error=type(exc).__name__, exc_info=exc)


def _bound(listener: Listener | None) -> HostPort:
    if listener is None:
        msg = "the edge is not started"
        raise RuntimeError(msg)
    host, port = listener.addresses[0]
    return HostPort(host, port)
