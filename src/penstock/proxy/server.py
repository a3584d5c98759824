"""The composition root of a proxy."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from penstock.config.types import HostPort
from penstock.errors import ConfigError
from penstock.net.listen import Listener, listen_tcp
from penstock.net.loop import raise_descriptor_limit
from penstock.proxy.callers import Callers
from penstock.proxy.guard import Guard, Resolver, system_lookup
from penstock.proxy.listener import Streams
from penstock.proxy.metrics import ProxyMetrics
from penstock.proxy.pool import Pool
from penstock.proxy.routes import RouteTable
from penstock.proxy.service import Service
from penstock.telemetry.health import AdminServer, healthz, readyz
from penstock.telemetry.log import get_logger
from penstock.telemetry.metrics import metrics_page, new_registry
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.proxy.config import ProxyConfig
    from penstock.proxy.guard import LookUp
    from penstock.proxy.limits import ProxyLimits
    from penstock.tls.contexts import TLSContext


_OWN_FILES: Final = 64  # listeners, log, certificates, the loop's own, look-ups


def time_for_calls(shutdown_timeout: float) -> float:
    """How long calls in flight may go on: a second less, for whoever stops us kills at exactly that time."""
    return max(shutdown_timeout - 1.0, shutdown_timeout / 2)


def check_files(config: ProxyConfig) -> None:
    """Read what the settings name, as a start would; ConfigError in the same words."""
    Identity.load(config)
    contexts.upstream(config.upstream.tls.ca_file, include_system_cas=config.upstream.tls.include_system_cas)


class Identity:
    """The certificate of inner TLS, as each new handshake asks for it.

    Loaded once now; whoever reloads it later replaces `context`, and live streams live on.
    """

    __slots__ = ("context", "expires_at")

    def __init__(self, context: TLSContext, expires_at: datetime) -> None:
        self.context = context
        self.expires_at = expires_at

    @classmethod
    def load(cls, config: ProxyConfig) -> Identity:
        """From the files; ConfigError in the published words."""
        pair = contexts.read_key_pair(config.tls.cert_file, config.tls.key_file)
        ca_file = config.callers.ca_file
        callers_ca = [contexts.read_pem(ca_file)] if ca_file is not None else []
        context = contexts.proxy_inner(pair, callers_ca, config.callers.mode)
        return cls(context, certs.load_certificate(pair.certificate_pem).not_valid_after_utc)

    def current(self) -> TLSContext:
        """The context for a new handshake."""
        return self.context


class Proxy:
    """One proxy: `start`, then `stop`. `lookup` is how upstreams' names are resolved."""

    def __init__(self, config: ProxyConfig, *, lookup: LookUp = system_lookup) -> None:
        self._config = config
        self._lookup = lookup
        self._log = get_logger("proxy")
        self._registry = new_registry()
        self._metrics = ProxyMetrics(self._registry)
        self._streams: Streams | None = None
        self._pool: Pool | None = None
        self._listener: Listener | None = None
        self._admin: AdminServer | None = None
        self._identity: Identity | None = None

    @property
    def address(self) -> HostPort:
        """Where it listens; port 0 in the settings is resolved."""
        if self._listener is None:
            msg = "the proxy has not started"
            raise RuntimeError(msg)
        return HostPort(*self._listener.addresses[0])

    @property
    def admin_address(self) -> HostPort | None:
        """Where health and metrics are, if anywhere."""
        return self._admin.address if self._admin is not None else None

    async def start(self) -> None:
        """Listening when it returns. ConfigError for what the settings got wrong."""
        config = self._config
        # Bound once: an unbound structlog logger is made anew for each line, even for one that the level drops.
        self._log = self._log.bind()
        identity = self._identity = Identity.load(config)
        self._metrics.certificate_loaded(identity.expires_at.timestamp())
        routes = RouteTable(config.routes, config.tunnel_domain)
        limits = self._limits_that_hold(config.limits)
        self._pool = self._make_pool()
        service = Service(
            routes=routes,
            pool=self._pool,
            limits=limits,
            metrics=self._metrics,
            log=self._log,
            loop=asyncio.get_running_loop(),
        )
        self._streams = Streams(service, Callers(config.callers.allow), identity.current)
        for route in routes:
            self._log.info("route configured", route=route.name, upstream=route.url)
        self._warn(any(route.is_tls for route in routes))
        self._listener = await listen_tcp(config.listen_addr.host, config.listen_addr.port, self._streams.accept)
        if config.admin_addr is not None:
            await self._start_admin(config.admin_addr)
        self._log.info("proxy started", address=str(self.address), certificate_expires=identity.expires_at.isoformat())

    async def stop(self) -> None:
        """Accept nothing more, end standing streams, let calls finish for `shutdown_timeout` less a second, cut the rest."""
        if self._listener is not None:
            self._listener.close()
            self._log.info("proxy stopping", streams=len(self._streams) if self._streams is not None else 0)
        if self._streams is not None:
            left = await self._streams.drain(time_for_calls(self._config.shutdown_timeout))
            if left:
                self._log.warning("streams cut", count=left, hint="calls went on past shutdown_timeout")
        if self._pool is not None:
            await self._pool.aclose()
        if self._admin is not None:
            await self._admin.stop()
        self._listener = None
        self._log.info("proxy stopped")

    def why_not_ready(self) -> str | None:
        """What keeps it from serving, for `/readyz`."""
        if self._listener is None or self._identity is None:
            return "not listening"
        if self._identity.expires_at <= datetime.now(UTC):
            return "the certificate has expired"
        return None

    def _limits_that_hold(self, limits: ProxyLimits) -> ProxyLimits:
        """Where the system does not give two files a stream, fewer streams: refused ones are told, EMFILE tells nobody."""
        files = raise_descriptor_limit()
        most = max((files - _OWN_FILES) // 2, 1)
        if most >= limits.streams:
            return limits
        self._log.warning(
            "streams limited by open files",
            streams=most,
            files=files,
            hint="raise it with ulimit -n or LimitNOFILE",
        )
        return limits.model_copy(update={"streams": most})

    def _make_pool(self) -> Pool:
        upstream = self._config.upstream
        guard = Guard(upstream.allowed_ips, is_off=upstream.disable_ip_validation)
        resolver = Resolver(guard, lookup=self._lookup, most=self._config.limits.lookups)
        trust = contexts.upstream(upstream.tls.ca_file, include_system_cas=upstream.tls.include_system_cas)
        pool = Pool(resolver, self._config.limits, trust)
        self._metrics.watch_pool(lambda: pool.idle, lambda: pool.open)
        return pool

    async def _start_admin(self, address: HostPort) -> None:
        pages = {
            "/healthz": healthz,
            "/readyz": readyz(self.why_not_ready),
            "/metrics": metrics_page(self._registry),
        }
        self._admin = AdminServer(address, pages)
        try:
            await self._admin.start()
        except ConfigError:
            self._admin = None
            await self.stop()
            raise

    def _warn(self, has_tls_upstreams: bool) -> None:  # noqa: FBT001 - one question, one answer
        config = self._config
        if config.callers.mode == "off":
            self._log.warning(
                "callers are not checked",
                hint="whoever reaches this listener, a relay that was taken over included, can call: set callers.mode: require",
            )
        if config.upstream.disable_ip_validation:
            self._log.warning("IP validation is off", hint="routes may lead anywhere but to metadata addresses")
        if has_tls_upstreams and config.upstream.tls.ca_file is None and not config.upstream.tls.include_system_cas:
            self._log.warning(
                "no trust anchor for https upstreams", hint="set upstream.tls.ca_file or upstream.tls.include_system_cas"
            )
        if _is_world_readable(config.tls.key_file):
            self._log.warning("private key is readable by everybody", file=str(config.tls.key_file), hint="chmod 600")


def _is_world_readable(file: Path) -> bool:
    return bool(file.stat().st_mode & stat.S_IROTH)
