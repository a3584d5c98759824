"""A private side of one's own on a running control plane and edge: a tunnel, its proxy and its agent, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from penstock.agent.config import AgentConfig
from penstock.agent.server import Agent
from penstock.client.control import ControlClient
from penstock.config.load import validate
from penstock.proxy.config import ProxyConfig
from penstock.proxy.server import Proxy
from penstock.up import stack

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from penstock.client.access import Access


@contextlib.asynccontextmanager
async def private_side(
    folder: Path, manager: Access, routes: dict[str, Any], **proxy_settings: Any
) -> AsyncGenerator[tuple[str, Agent]]:
    """The tunnel's domain and its agent, ready. The same folder again is one more replica of the same tunnel."""
    folder.mkdir(exist_ok=True)
    async with ControlClient(manager.api_url, manager.api_key) as control:
        made = await stack.prepare(folder, control)
    settings = {
        "listen_addr": "127.0.0.1:0",
        "admin_addr": None,
        "tunnel_domain": made.domain,
        "tls": {"cert_file": made.certificate_file, "key_file": made.key_file},
        "routes": routes,
        "upstream": {"allowed_ips": ["127.0.0.0/8"]},
        "callers": {"mode": "require", "ca_file": made.callers_ca_file},
        **proxy_settings,
    }
    async with contextlib.AsyncExitStack() as started:
        proxy = Proxy(validate(ProxyConfig, settings, source="test"))
        await proxy.start()
        started.push_async_callback(proxy.stop)
        agent_settings = {"token_file": made.token_file, "url": f"http://{proxy.address}", "metrics": "127.0.0.1:0"}
        agent = Agent(validate(AgentConfig, {**agent_settings, "grace_period": 1}, source="test"))
        await agent.start()
        started.push_async_callback(agent.stop)
        async with asyncio.timeout(10):
            await agent.until_ready()
        yield made.domain, agent
