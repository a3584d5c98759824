"""The composition root of the control plane."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING

from penstock.control.api.app import make_app
from penstock.control.metrics import ControlMetrics
from penstock.control.service.bootstrap import open_core
from penstock.control.service.feed import Feed
from penstock.control.service.issuer_keys import IssuerKeys
from penstock.control.serving import HttpServer
from penstock.net.tasks import Tasks
from penstock.telemetry.health import AdminServer, healthz, readyz
from penstock.telemetry.log import get_logger
from penstock.telemetry.metrics import metrics_page, new_registry
from penstock.tls import contexts

if TYPE_CHECKING:
    from penstock.config.types import HostPort
    from penstock.control.config import ControlConfig


class Control:
    """`penstock control`: the API on one address, the admin port on another. Takes no signals and keeps no global state."""

    def __init__(self, config: ControlConfig) -> None:
        self._config = config
        self._registry = new_registry()
        self._metrics = ControlMetrics.on(self._registry)
        self._log = get_logger("control")
        self._server: HttpServer | None = None
        self._admin: AdminServer | None = None
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
        scheme = "http" if self._config.tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.address.port}"

    @property
    def admin_address(self) -> HostPort | None:
        """Where the admin port listens, as bound; None where it is off."""
        return self._admin.address if self._admin is not None else None

    def why_not_ready(self) -> str | None:
        """None while requests are served."""
        return None if self._server is not None else "not serving"

    async def start(self) -> None:
        """Open the store and listen. Raises ConfigError: not initialized, newer schema, busy port, bad certificate."""
        async with AsyncExitStack() as opened:
            core = await opened.enter_async_context(open_core(self._config))
            issuer_keys = IssuerKeys(core)
            tasks = Tasks()
            opened.push_async_callback(tasks.aclose)
            app = make_app(core, Feed(core), issuer_keys, self._metrics)
            server = HttpServer(app, self._config.limits.connections)
            await server.start(self._config.listen_addr, await asyncio.to_thread(self._context))
            opened.push_async_callback(server.stop, self._config.shutdown_timeout)
            # Before the wait for requests: edges that wait for news are answered at once.
            opened.callback(core.database.changes.close)
            await self._start_admin(opened)
            tasks.spawn(issuer_keys.poll(), "issuer keys")
            self._server = server
            self._opened = opened.pop_all()
        if self._config.tls is None and not _is_loopback(self._config.listen_addr.host):
            self._log.warning(
                "control listens without TLS", hint="set tls, or let a proxy in front end it: keys cross the network"
            )
        self._log.info(
            "control listening", api=str(self.address), admin=str(self.admin_address), tls=self._config.tls is not None
        )

    async def stop(self) -> None:
        """Finish what runs, for `shutdown_timeout` at most, and close the store. Again: nothing."""
        if self._server is None:
            return
        await self._opened.aclose()
        self._server = None
        self._log.info("control stopped")

    async def _start_admin(self, opened: AsyncExitStack) -> None:
        if self._config.admin_addr is None:
            return
        pages = {"/healthz": healthz, "/readyz": readyz(self.why_not_ready), "/metrics": metrics_page(self._registry)}
        admin = AdminServer(self._config.admin_addr, pages)
        await admin.start()
        opened.push_async_callback(admin.stop)
        self._admin = admin

    def _context(self) -> contexts.TLSContext | None:
        files = self._config.tls
        return None if files is None else contexts.control_server(contexts.read_key_pair(files.cert_file, files.key_file))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
