"""Both Compose deployments on a real engine, each side on networks of its own: a call through, rotation, renewal, a stop.

`test_compose_faults.py` has what failures cost, `test_compose_guides.py` the pages' commands.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support import compose, cpu
from tests.support.registry import registry
from tests.support.sides import API_PORT, python_image, tell

if TYPE_CHECKING:
    from tests.support.sides import Sides

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_call_goes_through(sides: Sides) -> None:
    assert sides.call().startswith("Hello, compose!")


def test_the_stack_publishes_no_port_and_reaches_nothing_but_the_edges_and_its_upstream(sides: Sides) -> None:
    assert sides.stack("ps", "--format", "{{.Ports}}").split() == []
    reach = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"
    python = "/opt/penstock/bin/python"
    for host, port in (("edge-1.test", "7844"), ("edge-2.test", "7844"), ("hello-mcp", "9000")):
        sides.stack("exec", "-T", "mcp-gateway", python, "-c", reach, host, port)
    for host, port in (("control", "8700"), ("postgres", "5432"), ("172.17.0.1", API_PORT), ("192.0.2.1", "80")):
        assert "reached" not in sides.stack(
            "exec", "-T", "mcp-gateway", python, "-c", f"{reach}; print('reached')", host, port, check=False
        )


def cpu_seconds(pid: int) -> float:
    """What a process took since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_until(said: str, project: compose.Project, service: str) -> float:
    """What a restarted service took until it said so, by its own clock: an engine's log is read a second later."""
    project("restart", "--timeout", "10", service)
    state = project.container(service)["State"]
    logs = ("logs", "--since", state["StartedAt"], service)
    samples: list[tuple[float, float]] = []
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(compose.until, lambda: said in project(*logs), said)
        while not reading.done():
            samples.append((time.time(), cpu_seconds(state["Pid"])))
            time.sleep(0.01)
    reading.result()
    line = next(line for line in project(*logs).splitlines() if said in line)
    when = datetime.fromisoformat(json.loads(line[line.index("{") :])["timestamp"]).timestamp()
    return next(cpu for at, cpu in samples if at >= when)


def test_a_rotated_token_is_taken_up_as_the_guide_says_and_no_call_fails(sides: Sides) -> None:
    before = sides.token
    file = sides.stack.folder / "compose.yaml"
    with sides.calling() as calls:
        file.write_text(file.read_text().replace("--token-version=1", "--token-version=2"))
        sides.setup()
        assert sides.token != before
        assert calls.failed == []  # links that live stay
        sides.up("cloudflared")
        new = time.monotonic()
        calls.passes_after(new)
        assert calls.failed_since(new) == []
    tell(f"{len(calls.failed)} of {calls.done} calls failed while the only agent was made anew")


def test_a_renewed_certificate_is_taken_up_live_and_no_call_fails(sides: Sides) -> None:
    before = (sides.stack.folder / "data/tls.crt").read_text()
    started = sides.stack.container("mcp-gateway")["State"]["StartedAt"]
    with sides.calling() as calls:
        sides.stack("run", "--rm", "setup", "renew-cert", "--output=dir:/data")
        assert (sides.stack.folder / "data/tls.crt").read_text() != before
        compose.until(lambda: "certificate reloaded" in sides.stack("logs", "mcp-gateway"), "reloaded")
        calls.passes_after(time.monotonic())
    assert calls.failed == []
    assert sides.stack.container("mcp-gateway")["State"]["StartedAt"] == started


def test_a_health_check_costs_a_fraction_of_that(sides: Sides) -> None:
    asked = "import os,sys; u=os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)[2]; print(u.ru_utime + u.ru_stime)"
    for project, service in ((sides.platform, "control"), (sides.stack, "mcp-gateway"), (sides.stack, "cloudflared")):
        run = ("exec", "-T", service, "/opt/penstock/bin/python", "-c", asked, "/opt/penstock/bin/penstock", "health")
        took = [float(project(*run).split()[-1]) for _ in range(3)]
        tell(f"{service}: health takes {min(took):.2f} s of CPU, best of {took}")
        assert min(took) < 0.15, took


def test_nothing_a_role_imports_is_compiled_at_its_start(sides: Sides) -> None:
    modules = "penstock.cli.control penstock.control.server penstock.edge.server penstock.agent.server penstock.proxy.server"
    modules += " penstock.control.storage.postgresql encodings.idna"  # at the first database and the first name
    look = """
import sys, os, importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print([name for name, it in sys.modules.items() if (at := getattr(it, "__cached__", None)) and not os.path.exists(at)])
"""
    said = sides.platform("exec", "-T", "control", "/opt/penstock/bin/python", "-c", look, *modules.split())
    assert said.strip() == "[]"


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("control", "control listening"),
        ("edge-2", "edge listening"),
        ("mcp-gateway", "proxy started"),
        ("cloudflared", "Registered tunnel connection"),
    ],
)
def test_a_role_starts_with_little_cpu(sides: Sides, service: str, said: str) -> None:
    """Under a second, as `cpu` counts: what others do meanwhile is in it too."""
    project = sides.stack if service in {"mcp-gateway", "cloudflared"} else sides.platform
    took: list[float] = []

    def start() -> float:
        took.append(cpu_until(said, project, service))
        return took[-1]

    least = cpu.least(start, 1.0)
    tell(f"{service}: {least:.2f} s of CPU until `{said}`, the best of {took} at a pace of {cpu.pace():.2f}")
    assert least < 1.0, took
    if service == "mcp-gateway":
        sides.stack("restart", "cloudflared")  # its network was the other's
    compose.until(sides.works, "answering", 120)


if CLOUDFLARED := os.environ.get("CLOUDFLARED"):

    def test_a_stock_agent_stands_in_our_agents_place(sides: Sides, tmp_path: Path) -> None:
        image = compose.stock_agent_image(tmp_path, python_image(), CLOUDFLARED)
        edges = (sides.stack.folder / "data/edge-addresses").read_text().split()
        variables = {"CLOUDFLARED_IMAGE": image, "EDGE_ADDRESSES": ",".join((edges * 4)[:4])}
        stack = replace(sides.stack, files=(*sides.stack.files, "compose.stock-agent.yaml"), variables=variables)
        try:
            stack("up", "--detach", "cloudflared", TUNNEL_TOKEN=sides.token)  # it has no health check to wait for
            compose.until(lambda: stack("logs", "cloudflared").count("Registered tunnel connection") == 4, "four links")
            assert sides.works()
        finally:
            sides.up("cloudflared")
        compose.until(sides.works, "answering through our agent again")


if "DOCKER_REGISTRY" in os.environ:

    def test_an_image_named_by_digest_is_run_whatever_its_tag_becomes(sides: Sides, tmp_path: Path) -> None:
        environment = sides.stack.folder / ".env"
        before = environment.read_text()
        with registry(tmp_path / "registry") as there:
            pinned = there.push(sides.image)
            environment.write_text(f"{before}\n{there.pinned('ini', pinned)}")
            sides.up()
            ours = sides.stack.container("mcp-gateway")
            assert ours["Config"]["Image"] == pinned
            other = there.move_tag(sides.image)
            sides.stack("pull")
            sides.stack("up", "--detach", "--wait", "--force-recreate", TUNNEL_TOKEN=sides.token)
            again = sides.stack.container("mcp-gateway")
            assert (again["Id"] != ours["Id"], again["Image"]) == (True, ours["Image"])
            compose.until(sides.works, "answering from the pinned image")
            environment.write_text(f"{before}\nPENSTOCK_IMAGE={there.tag}\n")
            sides.up()
            assert sides.stack.container("mcp-gateway")["Image"] == other  # who names the tag gets what it has become
            environment.write_text(before)
            sides.up()
        compose.until(sides.works, "answering from the image of before")


def test_every_container_stops_in_time_with_0(sides: Sides) -> None:
    began = time.monotonic()
    sides.stack("stop")
    assert time.monotonic() - began < 30
    codes = {service: sides.stack.container(service)["State"]["ExitCode"] for service in ("mcp-gateway", "cloudflared")}
    assert codes == {"mcp-gateway": 0, "cloudflared": 0}
    sides.up()
    compose.until(sides.works, "answering after a stop and a start")
