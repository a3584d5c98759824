"""The composition root of an agent."""

from __future__ import annotations

import asyncio
import platform
import secrets
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from uuid import uuid4

from penstock.agent.connection import LinkPlan
from penstock.agent.metrics import AgentMetrics, ready_page
from penstock.agent.origin import Origin
from penstock.agent.supervisor import Supervisor
from penstock.config.types import HostPort
from penstock.errors import ConfigError
from penstock.net.tasks import Tasks
from penstock.protocol.http2 import WindowBudget
from penstock.protocol.registration import Registration
from penstock.protocol.token import TunnelToken, parse_token
from penstock.telemetry.health import AdminServer, healthz, readyz
from penstock.telemetry.log import get_logger
from penstock.telemetry.metrics import metrics_page, new_registry
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.agent.config import AgentConfig


class Agent:
    """One agent. `start` returns when it dials, `is_ready` says when a link is registered, `stop` ends in order."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._log = get_logger("agent")
        self.connector_id = uuid4()
        self._tasks = Tasks(self._failed)
        registry = new_registry()
        self.metrics = AgentMetrics.on(registry)
        self._supervisor: Supervisor | None = None
        pages = {
            "/ready": ready_page(self.connector_id, lambda: self.links),
            "/healthz": healthz,
            "/readyz": readyz(self.why_not_ready),
            "/metrics": metrics_page(registry),
        }
        self._admin = AdminServer(config.metrics, pages) if config.metrics is not None else None

    @property
    def links(self) -> int:
        """Registered links."""
        return self._supervisor.registered if self._supervisor is not None else 0

    @property
    def is_ready(self) -> bool:
        """Whether a link is registered."""
        return self.links > 0

    @property
    def buffered(self) -> int:
        """Bytes on their way to edges that the operating system has not taken: what a slow reader costs this process."""
        connections = self._supervisor.connections if self._supervisor is not None else ()
        return sum(connection.buffered for connection in connections)

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
        token, anchors = await asyncio.to_thread(_read_files, config)
        edges = config.edge or tuple(HostPort.parse(edge) for edge in token.edges)
        if not edges:
            raise ConfigError("The token names no edge.", hint="set edge to the address of one, e.g. edge.example.com:7844")
        if not anchors:
            raise ConfigError("The token names no CA to know an edge by.", hint="set cacert to the CA bundle of the edge")
        origin = Origin(config.url, limits=config.limits, metrics=self.metrics, tasks=self._tasks, log=self._log)
        plan = LinkPlan(
            registration=self._registration(token),
            context=contexts.agent_outer(anchors),
            limits=config.limits,
            budget=WindowBudget(),
            serve=origin.serve,
        )
        if self._admin is not None:
            await self._admin.start()
        self._supervisor = self._supervise(plan, edges)
        self._supervisor.start()

    async def stop(self) -> None:
        """Unregister, let streams finish within the grace period, end."""
        if self._supervisor is not None:
            await self._supervisor.stop(self._config.grace_period)
        await self._tasks.aclose()
        if self._admin is not None:
            await self._admin.stop()

    def _supervise(self, plan: LinkPlan, edges: Sequence[HostPort]) -> Supervisor:
        return Supervisor(
            self._config,
            plan,
            edges,
            metrics=self.metrics,
            tasks=self._tasks,
            log=self._log,
            random=secrets.SystemRandom().random,
        )

    def _registration(self, token: TunnelToken) -> Registration:
        return Registration(
            connection_index=0,  # each link says its own
            account=token.account,
            secret=token.secret_bytes(),
            tunnel_id=token.tunnel_id.bytes,
            client_id=self.connector_id.bytes,
            version=f"penstock {_version()}",
            arch=f"{platform.system().lower()}_{platform.machine().lower()}",
        )

    def _failed(self, name: str, exc: BaseException) -> None:
        self._log.error("background task failed", task=name, error=type(exc).__name__, exc_info=exc)


def _read_files(config: AgentConfig) -> tuple[TunnelToken, list[str | bytes]]:
    """The token and the CAs to know edges by."""
    token = _token(config)
    return token, [contexts.read_pem(config.cacert)] if config.cacert is not None else list(token.cas)


def _token(config: AgentConfig) -> TunnelToken:
    if config.token is not None:
        return parse_token(config.token.reveal())
    if config.token_file is None:
        raise ConfigError("There is no tunnel token.", hint="set token or token_file")
    return parse_token(contexts.read_pem(config.token_file))


def _version() -> str:
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "0"
