"""The composition root of a proxy."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from penstock.config.files import named_by
from penstock.config.types import HostPort
from penstock.errors import ConfigError
from penstock.net.listen import Listener, listen_tcp
from penstock.net.loop import raise_descriptor_limit
from penstock.net.tasks import Tasks
from penstock.proxy.guard import system_lookup
from penstock.proxy.listener import Streams
from penstock.proxy.live import Live
from penstock.proxy.metrics import ProxyMetrics
from penstock.proxy.oauth.gate import Gates
from penstock.proxy.pool import Pool
from penstock.proxy.reload import Reload
from penstock.proxy.service import Service
from penstock.telemetry.health import AdminServer, healthz, readyz
from penstock.telemetry.log import get_logger
from penstock.telemetry.metrics import metrics_page, new_registry

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from penstock.errors import PenstockError
    from penstock.proxy.config import ProxyConfig
    from penstock.proxy.guard import LookUp
    from penstock.proxy.limits import ProxyLimits
    from penstock.proxy.reload import Source


_FEW_STREAMS: Final = 1000  # below it a busy proxy meets its limit, and somebody should know before
_OWN_FILES: Final = 64  # listeners, log, certificates, the loop's own, look-ups


def time_for_calls(shutdown_timeout: float) -> float:
    """How long calls in flight may go on: a second less, for whoever stops us kills at exactly that time."""
    return max(shutdown_timeout - 1.0, shutdown_timeout / 2)


def check_files(config: ProxyConfig, log: FilteringBoundLogger) -> None:
    """Read what the settings name, as a start would; ConfigError in the same words."""
    _warn_of_certificate(Live.load(config, system_lookup), log)


def _warn_of_certificate(live: Live, log: FilteringBoundLogger) -> None:
    """What callers will refuse; it is no reason not to start, for another may be on its way."""
    if live.identity.expires_at <= datetime.now(UTC):
        log.warning(
            "certificate has expired",
            certificate_expires=live.identity.expires_at.isoformat(),
            file=str(live.config.tls.cert_file),
            hint="callers refuse it: `penstock setup renew-cert` makes another, which is taken up without a restart",
        )
    if hosts := live.unnamed():
        log.warning(
            "certificate does not name what routes are for",
            hosts=hosts,
            file=str(live.config.tls.cert_file),
            hint="callers refuse it there: `penstock setup renew-cert` makes one for the tunnel; or set tunnel_domain right",
        )


class Proxy:
    """One proxy: `start`, then `stop`. lookup: how upstreams' names are resolved; source: where settings are read again."""

    def __init__(self, config: ProxyConfig, *, lookup: LookUp = system_lookup, source: Source | None = None) -> None:
        self._config = config
        self._lookup = lookup
        self._source = source
        self._log = get_logger("proxy")
        self._registry = new_registry()
        self._metrics = ProxyMetrics(self._registry)
        self._live: Live | None = None
        self._service: Service | None = None
        self._streams: Streams | None = None
        self._listener: Listener | None = None
        self._admin: AdminServer | None = None
        self._reload: Reload | None = None
        self._tasks = Tasks()
        self._has_started = False

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

    @property
    def live(self) -> Live:
        """What holds now."""
        if self._live is None:
            msg = "the proxy has not started"
            raise RuntimeError(msg)
        return self._live

    async def start(self) -> None:
        """Listening when it returns. ConfigError for what the settings got wrong."""
        # Bound once: an unbound structlog logger is made anew for each line, even for one that the level drops.
        self._log = self._log.bind()
        live = self._live = Live.load(self._config, self._lookup)
        limits = self._limits_that_hold(self._config.limits)
        service = self._service = Service(
            routes=live.routes,
            pool=Pool(live.resolver, limits, live.trust.context),
            gates=Gates(),
            limits=limits,
            metrics=self._metrics,
            log=self._log,
            loop=asyncio.get_running_loop(),
        )
        self._metrics.watch_pool(lambda: service.pool.idle, lambda: service.pool.open)
        self._metrics.certificate_loaded(live.identity.expires_at.timestamp())
        self._open_gates(service, live)
        self._streams = Streams(service, live.callers, lambda: self.live.identity.context)
        self._tell_routes(live)
        self._warn(live.config)
        listen_addr = self._config.listen_addr
        with named_by("listen_addr"):
            self._listener = await listen_tcp(listen_addr.host, listen_addr.port, self._streams.accept)
        if self._config.admin_addr is not None:
            await self._start_admin(self._config.admin_addr)
        self._reload = Reload(self, self._source, self._lookup)
        self._tasks.keep(self._reload.run, "reload")
        self._has_started = True
        self._log.info("proxy started", address=str(self.address), certificate_expires=live.identity.expires_at.isoformat())

    def reload(self) -> None:
        """Look at the files now, as SIGHUP asks; nothing before the start is over."""
        if self._reload is not None:
            self._reload.ask()

    def adopt(self, live: Live) -> None:
        """As `reload.Running`: streams go on, and their next requests find the new settings."""
        before, self._live = self.live, live
        service, streams = self._service, self._streams
        if service is None or streams is None:
            return
        streams.callers = live.callers
        if live.identity.pair != before.identity.pair:
            self._metrics.certificate_loaded(live.identity.expires_at.timestamp())
            self._metrics.reloaded("certificate", is_taken=True)
            self._log.info("certificate reloaded", certificate_expires=live.identity.expires_at.isoformat())
        if live.unnamed() != before.unnamed():
            _warn_of_certificate(live, self._log)
        if live.config is before.config:
            return
        self._config = live.config
        service.routes = live.routes
        service.limits = self._limits_that_hold(live.config.limits)
        service.pool.adopt(live.resolver, service.limits, live.trust.context, live.routes)
        changes = live.changes_from(before)
        self._metrics.reloaded("config", is_taken=True)
        self._log.info("config reloaded", changes=changes) if changes else self._log.info("config unchanged")
        if self._source is not None:
            self._source.adopted(live.config)
        self._log = service.log = get_logger("proxy").bind()  # as loud as the new settings say
        self._open_gates(service, live)
        if changes:
            self._tell_routes(live, before)
            self._warn(live.config)

    def refused(self, what: str, error: PenstockError) -> None:
        """As `reload.Running`: what was in use stays."""
        self._metrics.reloaded(what, is_taken=False)
        told = {"error": error.public, "detail": error.detail, "hint": error.hint, "kept": "what was in use before"}
        if what == "certificate":
            self._log.error("certificate not reloaded", **told)
        else:
            self._log.error("config not reloaded", **told)

    async def stop(self) -> None:
        """Accept nothing more, end standing streams, let calls finish for `shutdown_timeout` less a second, cut the rest."""
        await self._tasks.aclose()
        has_served, self._has_started = self._has_started, False  # a start that failed is told by its error: nothing stops then
        if has_served:
            self._log.info("proxy stopping", streams=self.streams)
        if self._listener is not None:
            self._listener.close()
        if self._streams is not None:
            left = await self._streams.drain(time_for_calls(self._config.shutdown_timeout))
            if left:
                self._log.warning("streams cut", count=left, hint="calls went on past shutdown_timeout")
        if self._service is not None:
            await self._service.gates.aclose()
            await self._service.pool.aclose()
        if self._admin is not None:
            await self._admin.stop()
        self._listener = None
        if has_served:
            self._log.info("proxy stopped")

    @property
    def streams(self) -> int:
        """How many streams of callers are open."""
        return len(self._streams) if self._streams is not None else 0

    @property
    def calls(self) -> int:
        """How many requests are under way."""
        return self._streams.busy if self._streams is not None else 0

    def why_not_ready(self) -> str | None:
        """What keeps it from serving, for `/readyz`."""
        if self._listener is None:
            return "not listening"
        if self._service is not None and self._service.is_draining:
            return "stopping"
        if self.live.identity.expires_at <= datetime.now(UTC):
            return "the certificate has expired"
        return None

    def _limits_that_hold(self, limits: ProxyLimits) -> ProxyLimits:
        """Where the system does not give two files a stream, fewer streams: refused ones are told, EMFILE tells nobody."""
        files = raise_descriptor_limit(limits.streams * 2 + _OWN_FILES)
        most = max((files - _OWN_FILES) // 2, 1)
        if most >= limits.streams:
            return limits
        say = self._log.warning if most < _FEW_STREAMS else self._log.info
        say(
            "streams limited by open files",
            streams=most,
            files=files,
            hint="raise it with ulimit -n or LimitNOFILE",
        )
        return limits.model_copy(update={"streams": most})

    async def _start_admin(self, address: HostPort) -> None:
        pages = {
            "/healthz": healthz,
            "/readyz": readyz(self.why_not_ready),
            "/metrics": metrics_page(self._registry),
        }
        admin = AdminServer(address, pages)
        try:
            await admin.start()
        except ConfigError:
            await self.stop()
            raise
        self._admin = admin

    def _open_gates(self, service: Service, live: Live) -> None:
        trusts = {config: trust.context for config, trust in live.issuers.items()}
        service.gates.adopt(trusts, limits=service.limits, lookup=self._lookup, log=self._log)

    def _tell_routes(self, live: Live, before: Live | None = None) -> None:
        known = [] if before is None else list(before.routes)
        for route in live.routes:
            if route not in known:
                self._log.info("route configured", route=route.name, upstream=route.url)

    def _warn(self, config: ProxyConfig) -> None:
        if config.callers.mode == "off":
            self._log.warning(
                "callers are not checked",
                hint="whoever reaches this listener, a relay that was taken over included, can call: set callers.mode: require",
            )
        if config.upstream.disable_ip_validation:
            self._log.warning("IP validation is off", hint="routes may lead anywhere but to metadata addresses")
        has_tls_upstreams = any(route.is_tls for route in self.live.routes)
        if has_tls_upstreams and config.upstream.tls.ca_file is None and not config.upstream.tls.include_system_cas:
            self._log.warning(
                "no trust anchor for https upstreams", hint="set upstream.tls.ca_file or upstream.tls.include_system_cas"
            )
        _warn_of_certificate(self.live, self._log)
        if _is_world_readable(config.tls.key_file):
            self._log.warning("private key is readable by everybody", file=str(config.tls.key_file), hint="chmod 600")


def _is_world_readable(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # it was read once, and is being replaced
