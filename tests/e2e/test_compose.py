"""Both Compose deployments on a real engine, each side on networks of its own: a call through, and what a failure costs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support import ca, compose
from tests.support.command import run

from penstock.client import mcp_session
from penstock.client.access import Access
from penstock.secret import Secret
from penstock.tls.certs import certificate_to_pem

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

HERE = Path(__file__).parent / "compose"
PYTHON = os.environ["PENSTOCK_TEST_PYTHON_IMAGE"]
API = "https://localhost:18700"


@dataclass
class Sides:
    """Platform and stack, with a tunnel between them."""

    platform: compose.Project
    stack: compose.Project
    domain: str
    key: str

    def call(self, name: str = "compose") -> str:
        """The sample's tool, called from outside both."""
        url = f"https://echo.{self.domain}/mcp"
        access = {
            "PENSTOCK_API_URL": API,
            "PENSTOCK_API_KEY": self.key,
            "SSL_CERT_FILE": str(self.platform.folder / "tls/ca.crt"),
        }
        ended = run("call", url, "hello", f"name={name}", folder=self.platform.folder, **access)
        return ended.stdout if ended.returncode == 0 else f"failed: {ended.stderr}"

    def works(self) -> bool:
        return self.call("again").startswith("Hello, again!")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder = tmp_path_factory.mktemp("compose")
    image = compose.image(PYTHON, version("penstock"))
    platform = compose.Project.copy("platform", folder / "platform", HERE / "platform.yaml")
    stack = compose.Project.copy("stack", folder / "stack", "compose.sample.yaml", HERE / "stack.yaml")
    try:
        key = _start_platform(platform, image)
        _start_stack(stack, platform, image)
        yield Sides(platform, stack, (stack.folder / "data/tunnel-domain").read_text().strip(), key)
    finally:
        for project in (stack, platform):
            project("down", "--volumes", "--timeout", "0", check=False)


def _start_platform(platform: compose.Project, image: str) -> str:
    authority = ca.ca()
    pair = ca.server(authority, "control", "penstock.test", "localhost")
    tls, secrets = platform.folder / "tls", platform.folder / "secrets"
    tls.mkdir()
    secrets.mkdir()
    (tls / "ca.crt").write_text(certificate_to_pem(authority.certificate))
    (tls / "api.crt").write_text(pair.certificate_pem)
    (tls / "api.key").write_text(pair.key_pem.reveal())
    (secrets / "postgres-password").write_text("7cdf1e0a")
    (secrets / "database-url").write_text("postgresql://penstock:7cdf1e0a@postgres/penstock")
    (secrets / "enrolment-token").write_text("")
    platform.environment({"PENSTOCK_IMAGE": image, "API_PORT": "18700"})
    control = platform.folder / "control.yaml"
    control.write_text(control.read_text().replace("https://penstock.example.com", API))
    first = platform("run", "--rm", "init")
    values = json.loads(first)
    (secrets / "enrolment-token").write_text(values["enrolment_token"])
    (secrets / "tunnels-key").write_text(values["tunnels_key"])
    platform("up", "--detach", "--wait")
    return str(values["api_key"])


def _start_stack(stack: compose.Project, platform: compose.Project, image: str) -> None:
    data = stack.folder / "data"
    data.mkdir()
    shutil.copy(platform.folder / "tls/ca.crt", data / "platform-ca.crt")
    os.chown(data, 65532, 65532)
    stack.environment({"PENSTOCK_IMAGE": image, "PENSTOCK_API_URL": "https://penstock.test:8700"})
    stack("run", "--rm", "setup", API_TOKEN=(platform.folder / "secrets/tunnels-key").read_text())
    config = stack.folder / "config/mcp-gateway.yaml"
    config.write_text(config.read_text().replace("ab12cd34.tunnel.example.com", (data / "tunnel-domain").read_text().strip()))
    _up(stack)


def _up(stack: compose.Project, *services: str) -> None:
    token = (stack.folder / "data/tunnel-token").read_text().strip()
    stack("up", "--detach", "--wait", *services, TUNNEL_TOKEN=token)


def test_a_call_goes_through(sides: Sides) -> None:
    assert sides.call().startswith("Hello, compose!")


def test_the_stack_publishes_no_port_and_reaches_nothing_but_the_edges_and_its_upstream(sides: Sides) -> None:
    assert sides.stack("ps", "--format", "{{.Ports}}").split() == []
    reach = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"
    python = "/opt/penstock/bin/python"
    for host, port in (("edge-1.test", "7844"), ("edge-2.test", "7844"), ("hello-mcp", "9000")):
        sides.stack("exec", "-T", "mcp-gateway", python, "-c", reach, host, port)
    for host, port in (("control", "8700"), ("postgres", "5432"), ("172.17.0.1", "18700"), ("192.0.2.1", "80")):
        assert "reached" not in sides.stack(
            "exec", "-T", "mcp-gateway", python, "-c", f"{reach}; print('reached')", host, port, check=False
        )


def test_an_edge_that_is_killed_costs_no_later_call(sides: Sides) -> None:
    sides.platform("kill", "--signal", "KILL", "edge-1")
    try:
        assert sides.works()
    finally:
        sides.platform("up", "--detach", "--wait", "edge-1")


@pytest.mark.anyio
async def test_a_frozen_database_holds_up_no_caller_who_is_in(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(sides.platform.folder / "tls/ca.crt"))
    async with mcp_session(f"https://echo.{sides.domain}/mcp", Access(API, Secret(sides.key))) as session:
        await session.call_tool("hello", {"name": "before"})
        await asyncio.to_thread(sides.platform, "pause", "postgres")
        try:
            result = await session.call_tool("hello", {"name": "during"})
        finally:
            await asyncio.to_thread(sides.platform, "unpause", "postgres")
    assert "Hello, during!" in str(result.content)


@pytest.mark.parametrize("service", ["cloudflared", "mcp-gateway", "hello-mcp"])
def test_a_killed_service_of_the_stack_comes_back_by_itself(sides: Sides, service: str) -> None:
    pid = sides.stack.container(service)["State"]["Pid"]
    os.kill(pid, 9)
    compose.until(sides.works, f"answering after {service} was killed")


def test_a_rotated_token_is_taken_up_as_the_guide_says(sides: Sides) -> None:
    before = (sides.stack.folder / "data/tunnel-token").read_text()
    file = sides.stack.folder / "compose.yaml"
    file.write_text(file.read_text().replace("--token-version=1", "--token-version=2"))
    sides.stack("run", "--rm", "setup", API_TOKEN=(sides.platform.folder / "secrets/tunnels-key").read_text())
    assert (sides.stack.folder / "data/tunnel-token").read_text() != before
    assert sides.works()  # links that live stay
    _up(sides.stack, "cloudflared")
    compose.until(sides.works, "answering with the new token")


def test_a_renewed_certificate_is_taken_up_live(sides: Sides) -> None:
    before = (sides.stack.folder / "data/tls.crt").read_text()
    started = sides.stack.container("mcp-gateway")["State"]["StartedAt"]
    sides.stack("run", "--rm", "setup", "renew-cert", "--output=dir:/data")
    assert (sides.stack.folder / "data/tls.crt").read_text() != before
    compose.until(lambda: "certificate reloaded" in sides.stack("logs", "mcp-gateway"), "reloaded")
    assert sides.works()
    assert sides.stack.container("mcp-gateway")["State"]["StartedAt"] == started


if CLOUDFLARED := os.environ.get("CLOUDFLARED"):

    def test_a_stock_agent_stands_in_our_agents_place(sides: Sides, tmp_path: Path) -> None:
        shutil.copy(HERE / "cloudflared.Dockerfile", tmp_path / "Dockerfile")
        shutil.copy(CLOUDFLARED, tmp_path / "cloudflared")
        compose.docker("build", "--quiet", "--tag", "cloudflared:test", "--build-arg", f"PYTHON_IMAGE={PYTHON}", str(tmp_path))
        edges = (sides.stack.folder / "data/edge-addresses").read_text().split()
        variables = {"CLOUDFLARED_IMAGE": "cloudflared:test", "EDGE_ADDRESSES": ",".join((edges * 4)[:4])}
        stack = replace(sides.stack, files=(*sides.stack.files, "compose.stock-agent.yaml"), variables=variables)
        try:
            token = (stack.folder / "data/tunnel-token").read_text().strip()
            stack("up", "--detach", "cloudflared", TUNNEL_TOKEN=token)  # it has no health check to wait for
            compose.until(lambda: stack("logs", "cloudflared").count("Registered tunnel connection") == 4, "four links")
            assert sides.works()
        finally:
            _up(sides.stack, "cloudflared")
        compose.until(sides.works, "answering through our agent again")


def test_every_container_stops_in_time_with_0(sides: Sides) -> None:
    began = time.monotonic()
    sides.stack("stop")
    assert time.monotonic() - began < 30
    codes = {service: sides.stack.container(service)["State"]["ExitCode"] for service in ("mcp-gateway", "cloudflared")}
    assert codes == {"mcp-gateway": 0, "cloudflared": 0}
    _up(sides.stack)
    compose.until(sides.works, "answering after a stop and a start")


def _id(project: compose.Project, service: str) -> str:
    return project("ps", "--quiet", service).strip()
