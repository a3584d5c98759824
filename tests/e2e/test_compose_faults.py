"""What each service's failure costs callers, on a real engine: killed, frozen, and cut from its networks; and two hosts.

The seconds are printed (`-rP`): from the moment the service is let go again, or the cause is past, to the end of the first
call that began after it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from tests.support import compose
from tests.support import sides as support

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sides import Sides

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

IN_THE_PATH = ("cloudflared", "mcp-gateway", "hello-mcp")
BESIDE = ("control", "postgres")
LASTS = 4.0  # seconds a fault lasts: longer than any wait for an answer that may hide it


def said(what: str, seconds: float, failed: int) -> None:
    support.tell(f"{what}: a call passed {seconds:.1f} s after; {failed} failed")


def project_of(sides: Sides, service: str) -> compose.Project:
    return sides.stack if service in IN_THE_PATH else sides.platform


@pytest.mark.parametrize("service", IN_THE_PATH)
def test_a_killed_service_of_the_stack_comes_back_by_itself(sides: Sides, service: str) -> None:
    with sides.calling() as calls:
        os.kill(sides.stack.container(service)["State"]["Pid"], 9)
        began = time.monotonic()
        # Not the first call that passes, which may have been on its way, but one after the process is another.
        compose.until(lambda: sides.stack.container(service)["State"]["Running"], f"{service} started again")
        took = calls.passes_after(began + 0.5) + 0.5
    said(f"{service} killed", took, len(calls.failed))
    assert took < 60


@pytest.mark.parametrize("service", IN_THE_PATH)
def test_a_frozen_service_of_the_stack_holds_calls_up_only_while_it_is_frozen(sides: Sides, service: str) -> None:
    with sides.calling() as calls:
        sides.stack("pause", service)
        time.sleep(LASTS)
        frozen = time.monotonic()
        sides.stack("unpause", service)
        took = calls.passes_after(frozen)
    said(f"{service} frozen for {LASTS:.0f} s", took, len(calls.failed))
    assert took < 60


@pytest.mark.parametrize("service", BESIDE)
@pytest.mark.parametrize("fault", ["pause", "kill"])
def test_control_and_database_may_freeze_or_die_without_a_call_noticing(sides: Sides, service: str, fault: str) -> None:
    with sides.calling() as calls:
        began = time.monotonic()
        sides.platform(fault, service)
        try:
            time.sleep(LASTS)
            took = calls.passes_after(time.monotonic())
        finally:
            sides.platform(*(("unpause", service) if fault == "pause" else ("up", "--detach", "--wait", service)))
        assert calls.failed_since(began) == []
    said(f"{service}: {fault}", took, 0)
    compose.until(sides.works, "answering new callers")


@pytest.mark.parametrize("fault", ["pause", "kill"])
def test_an_edge_that_freezes_or_dies_is_left_for_the_other(sides: Sides, fault: str) -> None:
    with sides.calling() as calls:
        for edge in ("edge-1", "edge-2"):  # whichever carries the callers
            began = time.monotonic()
            sides.platform(fault, edge)
            try:
                took = calls.passes_after(began + 0.2) + 0.2
            finally:
                sides.platform(*(("unpause", edge) if fault == "pause" else ("up", "--detach", "--wait", edge)))
            said(f"{edge}: {fault}", took, len(calls.failed_since(began)))
            assert took < 60
            compose.until(lambda: links(sides) == 4, "four links again", 120)


@pytest.mark.parametrize("service", [*IN_THE_PATH[1:], "edge-1", "control"])
def test_a_service_cut_from_its_networks_is_back_when_they_are(sides: Sides, service: str) -> None:
    with sides.calling() as calls:
        with cut(project_of(sides, service), service):
            time.sleep(LASTS)
        took = calls.passes_after(time.monotonic())
    said(f"{service} cut for {LASTS:.0f} s", took, len(calls.failed))
    assert took < 60


def test_two_stacks_on_one_token_share_the_load_and_either_may_stop(sides: Sides, tmp_path: Path) -> None:
    second = support.another_host(sides, tmp_path / "stack-2")
    try:
        sides.up(stack=second)
        compose.until(lambda: links(sides, second) == 4, "the second's links")
        with sides.calling() as calls:
            for project in (second, sides.stack):
                began = time.monotonic()
                project("stop", "cloudflared")
                took = calls.passes_after(time.monotonic())
                assert calls.failed_since(began) == [], "an orderly stop costs no call"
                said(f"{project.name} stopped", took, 0)
                sides.up("cloudflared", stack=project)
                compose.until(lambda p=project: links(sides, p) == 4, "its links again")
        before = {project.name: requests(project) for project in (second, sides.stack)}
        for _ in range(10):  # each a program of its own, for one program's calls stay together
            with sides.calling():
                pass
        for project in (second, sides.stack):
            assert requests(project) > before[project.name], "both are asked"
    finally:
        second("down", "--timeout", "0", check=False)
    compose.until(sides.works, "answering through the first alone")


def links(sides: Sides, stack: compose.Project | None = None) -> int:
    """How many links the agent says are ready."""
    ask = (
        "import json,urllib.request as u;"
        "print(json.load(u.urlopen('http://127.0.0.1:20241/ready',timeout=3))['readyConnections'])"
    )
    answered = (stack or sides.stack)("exec", "-T", "cloudflared", "/opt/penstock/bin/python", "-c", ask, check=False)
    return int(answered.strip() or 0)


def requests(stack: compose.Project) -> int:
    """How many its proxy has been asked."""
    return stack("logs", "--no-log-prefix", "mcp-gateway").count("request started")


class cut:  # noqa: N801 - used as a word
    """Every network of a service taken away, and given back with the names it had there."""

    def __init__(self, project: compose.Project, service: str) -> None:
        self._container = project.container(service)

    def __enter__(self) -> None:
        self._networks: dict[str, list[str]] = {
            name: [alias for alias in (network["Aliases"] or []) if alias != self._container["Id"][:12]]
            for name, network in self._container["NetworkSettings"]["Networks"].items()
        }
        for name in self._networks:
            compose.docker("network", "disconnect", name, self._container["Id"])

    def __exit__(self, *_: object) -> None:
        for name, aliases in self._networks.items():
            named = [part for alias in aliases for part in ("--alias", alias)]
            compose.docker("network", "connect", *named, name, self._container["Id"])
