"""The MCP project's own conformance suite says the same of a server through the tunnel as of the server itself."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from tests.support.bridge import Bridge
from tests.support.chain import Chain
from tests.support.conformance_server import conformance_server
from tests.support.mcp_servers import serving
from tests.support.node import node

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.anyio,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),  # sampling: the suite still asks for it
]

# What the SDK's high-level server does not offer: both runs must fail it alike.
LEAST_PASSED = 25


async def results(url: str, folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Every check's id and status, by scenario."""
    found = node()
    suite = found.script("@modelcontextprotocol/conformance", "dist/index.js")
    process = await asyncio.create_subprocess_exec(
        found.command,
        suite,
        "server",
        "--url",
        url,
        "-o",
        str(folder),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(180):
        said, _ = await process.communicate()
    files = sorted(folder.glob("*/checks.json"))
    assert files, said.decode()
    by_scenario: dict[str, list[tuple[str, str]]] = {}
    for file in files:
        scenario = file.parent.name.rsplit("-20", 1)[0].removeprefix("server-")
        by_scenario[scenario] = [(check["id"], check["status"]) for check in json.loads(file.read_text())]
    return by_scenario


async def test_the_suite_says_the_same_directly_and_through_the_tunnel(tmp_path: Path) -> None:
    app = conformance_server().streamable_http_app()
    async with serving(app) as url:
        direct = await results(f"{url}/mcp", tmp_path / "direct")
        async with Chain(tmp_path, {"echo": {"url": url, "host_header": "upstream"}}) as chain:
            bridge = Bridge(chain.access, chain.url("echo"))
            async with serving(bridge) as through:
                tunnelled = await results(f"{through}/mcp", tmp_path / "tunnelled")
            await bridge.aclose()
    assert tunnelled == direct
    passed = [name for name, checks in direct.items() if all(status == "SUCCESS" for _, status in checks)]
    assert len(passed) >= LEAST_PASSED, sorted(set(direct) - set(passed))
