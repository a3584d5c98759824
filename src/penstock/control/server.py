"""The composition root of the control plane."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from penstock.config.address import is_loopback
from penstock.config.files import named_by
from penstock.config.pem import read_authorities
from penstock.control.api.addresses import holder
from penstock.control.api.app import make_app
from penstock.control.certificate.answers import Answers
from penstock.control.certificate.folder import AcmeFolder
from penstock.control.certificate.served import Served
from penstock.control.metrics import ControlMetrics
from penstock.control.service.bootstrap import open_core
from penstock.control.service.feed import Feed
from penstock.control.service.issuer_keys import IssuerKeys
from penstock.control.service.readiness import Readiness
from penstock.control.serving import HttpServer
from penstock.errors import ConfigError, missing_libraries
from penstock.net.loop import raise_descriptor_limit
from penstock.net.tasks import Tasks
from penstock.telemetry.health import AdminServer, healthz, readyz
from penstock.telemetry.log import get_logger
from penstock.telemetry.metrics import metrics_page, new_registry

if TYPE_CHECKING:
    from penstock.config.types import HostPort
    from penstock.control.certificate.renewal import Renewal
    from penstock.control.config import ControlConfig

_OWN_FILES: Final = 128  # listeners, log, the database's, fetches of keys, conditions that are evaluated


class Control:
    """`penstock control`: the API on one address, the admin port on another. Takes no signals and keeps no global state."""

    def __init__(self, config: ControlConfig) -> None:
        self._config = config
        self._registry = new_registry()
        self._metrics = ControlMetrics.on(self._registry)
        self._log = get_logger("control")
        self._server: HttpServer | None = None
        self._readiness: Readiness | None = None
        self._admin: AdminServer | None = None
        self._served: Served | None = None
        self._renewal: Renewal | None = None
        self._opened = AsyncExitStack()

    @property
    def address(self) -> HostPort:
        """Where the API listens, as bound; after `start`."""
        if self._server is None:
            msg = "the control plane was not started"
            raise RuntimeError(msg)
        return self._server.address

    @property
    def url(self) -> str:
        """The API's base URL on this machine; after `start`."""
        host = self.address.host
        if host in {"0.0.0.0", "::"}:
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"
        scheme = "https" if self._config.has_tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.address.port}"

    @property
    def admin_address(self) -> HostPort | None:
        """Where the admin port listens, as bound; None where it is off."""
        return self._admin.address if self._admin is not None else None

    def why_not_ready(self) -> str | None:
        """None while requests are served and the database answers."""
        if self._server is None or self._readiness is None:
            return "not serving"
        if self._readiness.why_not is not None:
            return self._readiness.why_not
        if self._served is None or self._served.is_there:
            return None
        failure = self._renewal.failure if self._renewal is not None else None
        return "there is no certificate yet" if failure is None else f"there is no certificate yet: {failure.public}"

    async def start(self) -> None:
        """Open the store and listen. Raises ConfigError: not initialized, newer schema, busy port, bad certificate."""
        await asyncio.to_thread(_check_authorities, self._config)
        async with AsyncExitStack() as opened:
            core = await opened.enter_async_context(open_core(self._config))
            issuer_keys, readiness = IssuerKeys(core), Readiness(core)
            tasks = Tasks()
            opened.push_async_callback(tasks.aclose)
            app = make_app(core, Feed(core), issuer_keys, readiness, self._metrics)
            limits, trusted = self._config.limits, self._config.trusted_proxies
            server = HttpServer(
                app, self._connections_that_hold(), limits.connections_each, lambda address: holder(address, trusted)
            )
            await self._start_api(server, tasks)
            opened.push_async_callback(server.stop, self._config.shutdown_timeout)
            # Before the wait for requests: edges that wait for news are answered at once.
            opened.callback(core.database.changes.close)
            await self._start_admin(opened)
            await self._start_acme(opened, tasks)
            tasks.keep(issuer_keys.poll, "issuer keys")
            tasks.keep(readiness.watch, "readiness")
            self._server, self._readiness = server, readiness
            self._opened = opened.pop_all()
        if not self._config.has_tls and not is_loopback(self._config.listen_addr.host):
            self._log.warning(
                "control listens without TLS", hint="set tls or acme, or let a proxy in front end it: keys cross the network"
            )
        self._log.info("control listening", api=str(self.address), admin=str(self.admin_address), tls=self._config.has_tls)

    async def stop(self) -> None:
        """Finish what runs, for `shutdown_timeout` at most, and close the store. Again: nothing."""
        if self._server is None:
            return
        await self._opened.aclose()
        self._server = None
        self._log.info("control stopped")

    def _connections_that_hold(self) -> int:
        """Where the system does not give two files a connection (one arrives while one is held), fewer: EMFILE tells nobody."""
        wanted = self._config.limits.connections
        files = raise_descriptor_limit(2 * wanted + _OWN_FILES)
        most = max((files - _OWN_FILES) // 2, 1)
        if most < wanted:
            hint = "raise it with ulimit -n or LimitNOFILE"
            self._log.warning("connections limited by open files", connections=most, files=files, hint=hint)
        return min(most, wanted)

    async def _start_admin(self, opened: AsyncExitStack) -> None:
        if self._config.admin_addr is None:
            return
        pages = {"/healthz": healthz, "/readyz": readyz(self.why_not_ready), "/metrics": metrics_page(self._registry)}
        admin = AdminServer(self._config.admin_addr, pages)
        await admin.start()
        opened.push_async_callback(admin.stop)
        self._admin = admin

    async def _start_api(self, server: HttpServer, tasks: Tasks) -> None:
        config = self._config
        if config.tls is not None:
            self._served = Served(config.tls.cert_file, config.tls.key_file, self._metrics.certificate_expiry)
            await self._served.load()
        elif config.acme is not None:
            folder = AcmeFolder(config.acme_folder)
            await asyncio.to_thread(folder.prepare)
            self._served = Served(folder.pair_file, None, self._metrics.certificate_expiry)
            await self._served.look()
        if self._served is None:
            with named_by("listen_addr"):
                await server.start(config.listen_addr, None)
            return
        # Before an authority's first certificate there is nothing to present: connections end at once, as on no port.
        with named_by("listen_addr"):
            await server.start(
                config.listen_addr, self._served.context, lambda: self._served is not None and self._served.is_there
            )
        tasks.keep(self._served.follow, "certificate files")

    async def _start_acme(self, opened: AsyncExitStack, tasks: Tasks) -> None:
        if self._config.acme is None or self._served is None:
            return
        try:
            from penstock.control.certificate.renewal import Renewal  # noqa: PLC0415 - its libraries are an extra
        except ModuleNotFoundError as exc:
            raise ConfigError(f"acme needs {exc.name}", hint=missing_libraries("acme")) from exc
        folder = AcmeFolder(self._config.acme_folder)
        answers = Answers(folder)
        await answers.start(self._config.acme.listen_addr)
        opened.push_async_callback(answers.stop)
        self._renewal = Renewal(self._config.acme, self._config.certificate_names, folder, self._served.look)
        tasks.keep(self._renewal.run, "certificate renewal")


def _check_authorities(config: ControlConfig) -> None:
    """Files that are read when somebody signs in, or a certificate is due, and are wrong now. Raises ConfigError."""
    named = {"oidc.ca_file": config.oidc and config.oidc.ca_file, "acme.ca_file": config.acme and config.acme.ca_file}
    for setting, file in named.items():
        if file is not None:
            read_authorities(file, setting)
