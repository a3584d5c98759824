"""Proxy and agent on a folder that setup made: their settings, and how they start and stop together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock.agent.config import AgentConfig
from penstock.agent.server import Agent
from penstock.config.load import validate
from penstock.errors import UnavailableError
from penstock.proxy.config import ProxyConfig
from penstock.proxy.server import Proxy
from penstock.setup import material
from penstock.stack.routes import PRIVATE, is_loopback

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from penstock.config.types import HostPort
    from penstock.stack.screen import Screen

_LINKS_SECONDS: Final = 15.0


class Addresses(Protocol):
    """Where the two listen."""

    @property
    def proxy(self) -> HostPort: ...
    @property
    def proxy_admin(self) -> HostPort: ...
    @property
    def agent_metrics(self) -> HostPort: ...


def proxy(
    folder: Path,
    domain: str,
    routes: Mapping[str, str],
    *,
    allowed: Iterable[str],
    workspace_id: str | None,
    ports: Addresses,
) -> ProxyConfig:
    """The proxy. A loopback upstream gets the Host it knows: SDK servers answer 421 to a foreign one.

    allowed: networks besides the private ones. workspace_id: whose callers are served, for the edge checks it too but the
    proxy takes nobody's word; None where the platform does not say.
    """
    callers: dict[str, Any] = {"mode": "off"}
    if (folder / material.CALLERS_CA).exists() or workspace_id is not None:
        allow = {"allow": [workspace_id]} if workspace_id is not None else {}
        callers = {"mode": "require", "ca_file": folder / material.CALLERS_CA, **allow}
    return validate(
        ProxyConfig,
        {
            "listen_addr": str(ports.proxy),
            "admin_addr": ports.proxy_admin,
            "tunnel_domain": domain,
            "tls": {"cert_file": folder / material.CERTIFICATE, "key_file": folder / material.KEY},
            "routes": {name: _route(upstream) for name, upstream in routes.items()},
            "upstream": {"allowed_ips": [*PRIVATE, *allowed], "tls": {"include_system_cas": True}},
            "callers": callers,
        },
        source="proxy",
    )


def agent(folder: Path, *, ports: Addresses, **settings: Any) -> AgentConfig:
    """The agent."""
    return validate(
        AgentConfig,
        {
            "token_file": folder / material.TOKEN,
            "url": f"http://{ports.proxy}",
            "metrics": ports.agent_metrics,
            "grace_period": 5,
            **settings,
        },
        source="agent",
    )


async def start(
    proxy: ProxyConfig, agent: AgentConfig, routes: Mapping[str, str], screen: Screen, started: contextlib.AsyncExitStack
) -> None:
    """Both up and a link to an edge held; `started` stops them in the opposite order."""
    serving = Proxy(proxy)
    await serving.start()
    started.push_async_callback(serving.stop)
    screen.step(f"proxy     {proxy.listen_addr}, {', '.join(f'{name} → {to}' for name, to in routes.items())}")
    linking = Agent(agent)
    await linking.start()
    started.push_async_callback(linking.stop)
    started.callback(_tell_of_waiting, serving, screen)
    try:
        async with asyncio.timeout(_LINKS_SECONDS):
            await linking.until_ready()
    except TimeoutError:
        raise UnavailableError("the agent got no link to the edge", hint="look at its log above") from None
    screen.step(f"agent     connected to the edge for *.{proxy.tunnel_domain}")


def _tell_of_waiting(serving: Proxy, screen: Screen) -> None:
    """First of all when it stops: what follows may take seconds, and nobody should wonder why."""
    if serving.calls:
        screen.note(f"waiting for {serving.calls} call{'s' * (serving.calls > 1)}; Ctrl-C again ends them")


def _route(upstream: str) -> dict[str, Any]:
    return {"url": upstream, "host_header": "upstream" if is_loopback(upstream) else "preserve"}
