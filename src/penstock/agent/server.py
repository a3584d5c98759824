"""The composition root of an agent."""

from __future__ import annotations

import asyncio
import platform
import secrets
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from uuid import uuid4

from penstock.agent.connection import LinkPlan
from penstock.agent.credentials import EdgeTrust, read_token, read_trust
from penstock.agent.edges import Edges
from penstock.agent.files import limits_that_hold
from penstock.agent.isolation import until_isolated
from penstock.agent.metrics import AgentMetrics, ready_page
from penstock.agent.origin import Origin
from penstock.agent.reach import Reach
from penstock.agent.supervisor import Supervisor
from penstock.config.types import HostPort
from penstock.errors import ConfigError, PenstockError, UnavailableError
from penstock.net.tasks import Tasks
from penstock.protocol.http2 import WindowBudget
from penstock.protocol.notice import FEATURE, Notice
from penstock.protocol.registration import Registration
from penstock.telemetry.health import AdminServer, healthz, readyz
from penstock.telemetry.log import get_logger
from penstock.telemetry.metrics import metrics_page, new_registry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from penstock.agent.config import AgentConfig
    from penstock.agent.connection import EdgeConnection
    from penstock.protocol.token import TunnelToken


@dataclass(slots=True)
class _Running:
    """What a started agent shows and trusts; all of it may change while it lives."""

    token: TunnelToken
    trust: EdgeTrust
    plan: LinkPlan
    supervisor: Supervisor
    origin: Origin


class Agent:
    """One agent. `start` returns when it dials, `is_ready` says when a link is registered, `stop` ends in order."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._log = get_logger("agent")
        self.connector_id = uuid4()
        self._tasks = Tasks(self._failed)
        registry = new_registry()
        self.metrics = AgentMetrics.on(registry)
        self._running: _Running | None = None
        self._token_is_bad = False
        pages = {
            "/ready": ready_page(self.connector_id, lambda: self.links),
            "/healthz": healthz,
            "/readyz": readyz(self.why_not_ready),
            "/metrics": metrics_page(registry),
        }
        self._admin = AdminServer(config.metrics, pages, "metrics") if config.metrics is not None else None

    @property
    def links(self) -> int:
        """Registered links."""
        return self._running.supervisor.registered if self._running is not None else 0

    @property
    def is_ready(self) -> bool:
        """Whether a link is registered."""
        return self.links > 0

    async def until_ready(self) -> None:
        """Returns when a link is registered; after `start`."""
        if self._running is not None:
            await self._running.supervisor.until_registered()

    @property
    def buffered(self) -> int:
        """Bytes on their way to edges that the operating system has not taken: what a slow reader costs this process."""
        return sum(connection.buffered for connection in self._connections)

    @property
    def _connections(self) -> Sequence[EdgeConnection]:
        return self._running.supervisor.connections if self._running is not None else ()

    @property
    def metrics_address(self) -> HostPort | None:
        """The metrics port, as bound."""
        return self._admin.address if self._admin is not None else None

    def why_not_ready(self) -> str | None:
        """None when streams can come in."""
        return None if self.is_ready else "no link to an edge is registered"

    async def start(self) -> None:
        """Read the token, bind the metrics port, begin to dial. ConfigError or IdentityError for what cannot work."""
        config = self._config
        limits, most_links = limits_that_hold(config.limits, config.ha_connections, self._log)
        token = await asyncio.to_thread(read_token, config)
        trust = await asyncio.to_thread(read_trust, config, token)
        edges = config.edge or _addresses(token.edges)
        if not edges:
            raise ConfigError("the token names no edge", hint="set edge to the address of one, e.g. edge.example.com:7844")
        origin = Origin(config.url, limits=limits, metrics=self.metrics, tasks=self._tasks, log=self._log)
        plan = LinkPlan(
            registration=self._registration(token),
            context=trust.context(),
            limits=limits,
            budget=WindowBudget(),
            serve=origin.serve,
            reach=Reach(config),
        )
        if self._admin is not None:
            await self._admin.start()
        supervisor = self._supervise(plan, edges, most_links)
        self._running = _Running(token, trust, plan, supervisor, origin)
        supervisor.start()
        self._tasks.spawn(origin.watch(), "local target")
        if config.token_file is not None:
            self._tasks.spawn(self._watch_token(), "token file")

    async def until_failed(self) -> NoReturn:
        """Raises UnavailableError when the network it lives in is dead; for the program that runs this role alone."""
        try:
            await until_isolated(self._has_life)
        except UnavailableError:
            for connection in self._connections:
                connection.abort()  # nobody is there who could be told that we go
            raise

    async def _has_life(self) -> bool:
        """Whether a link is up that needs no interface, or the proxy may still be beside us, where they can come back."""
        running = self._running
        return any(link.is_local for link in self._connections) or running is None or not await running.origin.has_left()

    async def stop(self) -> None:
        """Unregister, let streams finish within the grace period, end."""
        if self._running is not None:
            await self._running.supervisor.stop(self._config.grace_period)
        await self._tasks.aclose()
        if self._admin is not None:
            await self._admin.stop()

    def _supervise(self, plan: LinkPlan, edges: Sequence[HostPort], most_links: int) -> Supervisor:
        random = secrets.SystemRandom().random
        return Supervisor(
            self._config,
            plan,
            Edges(edges, offset=random()),
            most_links=most_links,
            metrics=self.metrics,
            tasks=self._tasks,
            log=self._log,
            random=random,
            on_refused=self._read_token_again,
            on_notice=self._noticed,
        )

    # --- what changes while it runs ---------------------------------------------------------------------------------

    async def _watch_token(self) -> None:
        while True:
            await asyncio.sleep(self._config.limits.token_poll)
            await self._read_token_again()

    async def _read_token_again(self) -> None:
        """A file that changed is used from the next link on; one that cannot be read is said once, and the old value stays."""
        running = self._running
        if self._config.token_file is None or running is None:
            return
        try:
            token = await asyncio.to_thread(read_token, self._config)
            if token != running.token:
                await self._use(running, token)
        except PenstockError as exc:
            say = self._log.debug if self._token_is_bad else self._log.error
            self._token_is_bad = True
            say("token file not usable", error=exc.public, detail=exc.detail, hint=exc.hint)
            return
        self._token_is_bad = False

    async def _use(self, running: _Running, token: TunnelToken) -> None:
        """From now on. ConfigError where its CAs cannot be used, and all stays as it was."""
        trust = running.trust
        if token.cas != running.token.cas and self._config.cacert is None:
            trust = await asyncio.to_thread(read_trust, self._config, token)
        plan = replace(running.plan, registration=self._registration(token), context=trust.context())
        is_another = (token.tunnel_id, token.account) != (running.token.tunnel_id, running.token.account)
        running.token, running.trust, running.plan = token, trust, plan
        self._log.info("tunnel token read again", tunnel=str(token.tunnel_id))
        if not self._config.edge and token.edges:
            running.supervisor.learn(_addresses(token.edges), are_given=True)
        running.supervisor.use(plan, anew=is_another)

    def _noticed(self, notice: Notice) -> None:
        """An edge told which edges there are, and who signs them."""
        running = self._running
        if running is None:
            return
        new, refused = running.trust.learn(notice.cas)
        if refused:
            self._log.warning("edge CA not taken over: no trusted CA signed it", edge_cas=refused)
        if new:
            self._log.info("edge CA learned", edge_cas=new)
            running.plan = replace(running.plan, context=running.trust.context())
            running.supervisor.use(running.plan)
        if notice.edges and not self._config.edge:
            running.supervisor.learn(_addresses(notice.edges))

    # --- parts ------------------------------------------------------------------------------------------------------

    def _registration(self, token: TunnelToken) -> Registration:
        return Registration(
            connection_index=0,  # each link says its own
            account=token.account,
            secret=token.secret_bytes(),
            tunnel_id=token.tunnel_id.bytes,
            client_id=self.connector_id.bytes,
            features=(FEATURE,),
            version=f"penstock {_version()}",
            arch=f"{platform.system().lower()}_{platform.machine().lower()}",
        )

    def _failed(self, name: str, exc: BaseException) -> None:
        self._log.error("background task failed", task=name, error=type(exc).__name__, exc_info=exc)


def _addresses(texts: Sequence[str]) -> tuple[HostPort, ...]:
    return tuple(HostPort.parse(text) for text in texts)


def _version() -> str:
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "0"
