"""docs/guides/by-hand.md, run as it stands: the platform takes the CA, a caller's call passes the proxy, at every stage."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.docs.pages import page, shell
from tests.support.site import until
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
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.world import World

pytestmark = [pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "world").mkdir()
    async with world(tmp_path / "world") as running:
        yield running


def stages() -> list[str]:
    """The page's commands: up to the check, the renewal, the new CA registered, in use, and the old one archived."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page("guides/by-hand.md"), re.DOTALL | re.MULTILINE)
    last = next(number for number, block in enumerate(blocks) if "setup check" in block)
    api = next(block for block in blocks if block.startswith("api()")).partition("jq -n")[0]
    return ["".join(blocks[: last + 1]), *(f"{api}{block}" for block in blocks[last + 1 :])]


async def test_the_pages_commands_make_a_private_side_renew_it_and_rotate_its_ca(platform: World, tmp_path: Path) -> None:
    async with ControlClient(platform.manager.api_url, platform.manager.api_key) as control:
        tunnel = await control.create_tunnel("by hand")
        variables = {
            "API_URL": platform.manager.api_url,
            "API_TOKEN": platform.manager.api_key.reveal(),
            "TUNNEL_ID": tunnel.id,
            "TUNNEL_DOMAIN": tunnel.domain,
        }

        async def run(commands: str) -> str:
            return await shell(commands, tmp_path, variables)

        made, renewed, registered, swapped, archived = stages()
        said = await run(made)
        assert "CA registered: as tcrt_" in said
        assert "✗" not in said
        data = tmp_path / "data"
        async with Upstream() as upstream:
            settings = {
                "listen_addr": "127.0.0.1:0",
                "admin_addr": None,
                "tunnel_domain": tunnel.domain,
                "tls": {"cert_file": data / "tls.crt", "key_file": data / "tls.key"},
                "routes": {"echo": upstream.url},
                "upstream": {"allowed_ips": ["127.0.0.0/8"]},
                "callers": {"mode": "require", "ca_file": data / "callers-ca.crt"},
                "shutdown_timeout": 1,
                "reload_interval": 0.1,
            }
            proxy = Proxy(validate(ProxyConfig, settings, source="by hand"))
            await proxy.start()
            agent = Agent(
                validate(
                    AgentConfig,
                    {"token_file": data / "tunnel-token", "url": f"http://{proxy.address}", "metrics": None, "grace_period": 1},
                    source="by hand",
                )
            )
            await agent.start()
            try:
                await until(lambda: agent.links == 4)

                async def call() -> None:
                    leaf = certs.load_certificate((data / "tls.crt").read_text())
                    await until(lambda: proxy.live.identity.pair.certificate_pem == certs.certificate_to_pem(leaf))
                    async with httpx2.AsyncClient(transport=TunnelTransport(platform.access)) as client:
                        async with asyncio.TaskGroup() as group:
                            asked = group.create_task(client.get(f"https://echo.{tunnel.domain}/"))
                            await (await upstream.visit()).answer(b"by hand")
                        assert asked.result().text == "by hand"

                await call()
                for commands in (renewed, registered, swapped, archived):
                    await run(commands)
                    await call()
            finally:
                await agent.stop()
                await proxy.stop()
        [active] = await control.certificates(tunnel.id)
        assert active.fingerprint == certs.fingerprint(certs.load_certificate((data / "ca.crt").read_text()))
        assert (data / "ca.key").stat().st_mode & 0o077 == 0
