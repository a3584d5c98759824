"""The published Compose file against our platform: only image names and the value of `--api-url` are others."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from tests.support import compose
from tests.support.idp import Idp
from tests.support.sides import API, HERE, Sides, python_image, start_platform
from tests.support.workloads import workload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(600)]

_SERVER = """
from mcp.server.fastmcp import FastMCP

server = FastMCP("hello-server", host="0.0.0.0", port=9000)


@server.tool()
def hello(name: str = "world") -> str:
    return f"Hello, {name}!"


server.run(transport="streamable-http")
"""
_CONFIG = """\
listen_addr: ":8080"
log_level: info
shutdown_timeout: 30s
tunnel_domain: DOMAIN
tls:
  cert_file: /data/tls.crt
  key_file: /data/tls.key
routes:
  echo: http://hello-mcp:9000
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder = tmp_path_factory.mktemp("published")
    image = compose.image(python_image(), version("penstock"))
    platform = compose.Project.copy("platform", folder / "platform", HERE / "platform.yaml")
    stack = folder / "mcp-tunnel"
    for inner in ("config", "data"):
        (stack / inner).mkdir(parents=True)
    os.chown(stack / "data", 65532, 65532)
    shutil.copy(HERE / "published.yaml", stack / "docker-compose.yaml")
    (stack / "hello_server.py").write_text(_SERVER)
    files = ("docker-compose.yaml", HERE / "published-networks.yaml")
    names = {"IMAGE": image, "AGENT_IMAGE": image, "PYTHON_IMAGE": python_image(), "API": "https://penstock.test:8700"}
    project = compose.Project("penstock-test-published", stack, files, names)
    try:
        sides = Sides(platform, project, image, start_platform(platform, image))
        shutil.copy(sides.ca_file, stack / "data/platform-ca.crt")  # the test's platform has a private CA
        yield sides
    finally:
        for started in (project, platform):
            started("down", "--volumes", "--timeout", "0", check=False)


async def test_a_federated_identity_provisions_it_and_a_call_goes_through(published: Sides) -> None:
    async with published.api() as api:
        made = await workload(api, idp := Idp())
    variables = {
        "ANTHROPIC_FEDERATION_RULE_ID": made.rule["id"],
        "ANTHROPIC_ORGANIZATION_ID": published.made["organization_id"],
        "ANTHROPIC_WORKSPACE_ID": published.made["workspace_id"],
        "ANTHROPIC_IDENTITY_TOKEN": idp.sign(aud=API),
    }
    published.stack("run", "--rm", "setup", **variables)
    config = published.stack.folder / "config/mcp-gateway.yaml"
    config.write_text(_CONFIG.replace("DOMAIN", published.domain))
    published.stack("up", "--detach", TUNNEL_TOKEN=published.token)
    compose.until(published.works, "answering", 180)  # the sample installs its library first


if CLOUDFLARED := os.environ.get("CLOUDFLARED"):

    def test_the_stock_agent_takes_the_variables_and_the_mount_of_its_page(published: Sides, tmp_path: Path) -> None:
        image = compose.stock_agent_image(tmp_path, python_image(), CLOUDFLARED)
        edges = (published.stack.folder / "data/edge-addresses").read_text().split()
        stack = replace(
            published.stack,
            files=(*published.stack.files, HERE / "published-stock-agent.yaml"),
            variables={**published.stack.variables, "AGENT_IMAGE": image, "EDGE_ADDRESSES": ",".join((edges * 4)[:4])},
        )
        stack("up", "--detach", "cloudflared", TUNNEL_TOKEN=published.token)
        compose.until(lambda: stack("logs", "cloudflared").count("Registered tunnel connection") == 4, "four links", 120)
        assert published.works()
