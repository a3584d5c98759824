"""How an agent gets a connection to an edge: directly, or through the company's HTTP proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.net.connect import HttpProxy, dial_through, is_direct
from penstock.net.dial import dial_tcp
from penstock.tls import contexts

if TYPE_CHECKING:
    import asyncio

    from penstock.agent.config import AgentConfig
    from penstock.config.types import HostPort


class Reach:
    """The way out. ConfigError where the proxy's URL is none."""

    def __init__(self, config: AgentConfig) -> None:
        self._proxy = HttpProxy.parse(config.https_proxy) if config.https_proxy else None
        self._no_proxy = config.no_proxy
        # The proxy is the company's: whoever the system trusts may be it. The edge's own TLS runs inside.
        self._context = contexts.control_client() if self._proxy is not None and self._proxy.is_tls else None

    async def dial(self, edge: HostPort, timeout: float) -> asyncio.Transport:
        """An open connection, paused. UnavailableError says which of the two does not answer."""
        if self._proxy is None or self.is_direct(edge):
            return await dial_tcp(edge.host, edge.port, timeout=timeout)
        return await dial_through(self._proxy, edge.host, edge.port, context=self._context, timeout=timeout)

    def is_direct(self, edge: HostPort) -> bool:
        """Whether no proxy is in between."""
        return self._proxy is None or is_direct(edge.host, edge.port, self._no_proxy)
