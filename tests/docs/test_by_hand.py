"""docs/guides/by-hand.md, run as it stands: the platform takes the CA, a caller's call passes the proxy, at every stage."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.support.pages import Page
from tests.support.site import until
from tests.support.terminal import Terminal, of_a_newcomer
from tests.support.world import Upstream, world

from penstock.agent.config import AgentConfig
from penstock.agent.server import Agent
from penstock.client.control import ControlClient
from penstock.client.transport import TunnelTransport
from penstock.config.load import validate
from penstock.proxy.config import ProxyConfig
from penstock.proxy.server import Proxy
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from tests.support.world import World

pytestmark = [pytest.mark.anyio]

PAGE = Page("guides/by-hand.md")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "world").mkdir()
    async with world(tmp_path / "world") as running:
        yield running


async def test_the_pages_commands_make_a_private_side_renew_it_and_rotate_its_ca(platform: World, tmp_path: Path) -> None:
    async with ControlClient(platform.manager.api_url, platform.manager.api_key) as control:
        tunnel = await control.create_tunnel("by hand")
        variables = {
            "API_URL": platform.manager.api_url,
            "API_TOKEN": platform.manager.api_key.reveal(),
            "TUNNEL_ID": tunnel.id,
            "TUNNEL_DOMAIN": tunnel.domain,
        }
        with Terminal(tmp_path, of_a_newcomer(tmp_path, **variables)) as terminal:
            said = await asyncio.to_thread(terminal.type, PAGE.commands("make", "check"))
            assert "CA registered: as tcrt_" in said
            assert "✗" not in said
            async with Upstream() as upstream, private_side(tmp_path / "data", tunnel.domain, upstream) as proxy:

                async def call() -> None:
                    leaf = certs.load_certificate((tmp_path / "data/tls.crt").read_text())
                    await until(lambda: proxy.live.identity.pair.certificate_pem == certs.certificate_to_pem(leaf))
                    async with httpx2.AsyncClient(transport=TunnelTransport(platform.access)) as client:
                        async with asyncio.TaskGroup() as group:
                            asked = group.create_task(client.get(f"https://echo.{tunnel.domain}/"))
                            await (await upstream.visit()).answer(b"by hand")
                        assert asked.result().text == "by hand"

                await call()
                for commands in (
                    PAGE.commands("renew"),
                    PAGE.commands("next-ca"),
                    PAGE.commands("use-ca"),
                    PAGE.commands("retire-ca"),
                ):
                    await asyncio.to_thread(terminal.type, commands)
                    await call()
        [active] = await control.certificates(tunnel.id)
        assert active.fingerprint == certs.fingerprint(certs.load_certificate((tmp_path / "data/ca.crt").read_text()))
        assert (tmp_path / "data/ca.key").stat().st_mode & 0o077 == 0


@contextlib.asynccontextmanager
async def private_side(data: Path, domain: str, upstream: Upstream) -> AsyncGenerator[Proxy]:
    """Proxy and agent on what the page made, with every link there."""
    settings = {
        "listen_addr": "127.0.0.1:0",
        "admin_addr": None,
        "tunnel_domain": domain,
        "tls": {"cert_file": data / "tls.crt", "key_file": data / "tls.key"},
        "routes": {"echo": upstream.url},
        "upstream": {"allowed_ips": ["127.0.0.0/8"]},
        "callers": {"mode": "require", "ca_file": data / "callers-ca.crt"},
        "shutdown_timeout": 1,
        "reload_interval": 0.1,
    }
    proxy = Proxy(validate(ProxyConfig, settings, source="by hand"))
    await proxy.start()
    dialling = {"token_file": data / "tunnel-token", "url": f"http://{proxy.address}", "metrics": None, "grace_period": 1}
    agent = Agent(validate(AgentConfig, dialling, source="by hand"))
    await agent.start()
    try:
        await until(lambda: agent.links == 4)
        yield proxy
    finally:
        await agent.stop()
        await proxy.stop()
