"""`penstock stack`: what keeps it from starting is one line and what to do."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import pytest

from penstock.config.types import HostPort
from penstock.stack import ports

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from tests.cli.conftest import Ended

    from penstock.control.service.bootstrap import Initial

ONE_LINE = re.compile(r"penstock: (?P<error>[^\n]+)\n(  because: [^\n]+\n)?  hint: (?P<hint>[^\n]+)\n")


@pytest.fixture
def route() -> Generator[str]:
    """Something that listens; nothing is said to it before everything else is right."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"my=http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def run(
    command: Callable[..., Ended], platform: tuple[str, Initial], route: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """Once, on free ports, against the platform, with its Tunnels API key; what is given comes last."""
    monkeypatch.setenv("API_TOKEN", platform[1].tunnels_key.reveal())

    def run(*arguments: str) -> Ended:
        return command("stack", "--once", "--free-ports", "--api-url", platform[0], "--route", route, *arguments)

    return run


def one_line(ended: Ended, code: int) -> re.Match[str]:
    assert ended.code == code, ended
    said = "".join(line for line in ended.err.splitlines(keepends=True) if not line.startswith(("  setup", "! ", "{")))
    found = ONE_LINE.fullmatch(said)
    assert found is not None, ended.err
    return found


def test_without_a_credential_it_says_which_there_are(run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_TOKEN")
    found = one_line(run(), 2)
    assert found["error"] == "there is no credential"
    assert "API_TOKEN" in found["hint"]


def test_a_key_that_is_refused_is_named_and_not_shown(run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "pst-tunnels-nobody")
    ended = run()
    assert "Tunnels API key in API_TOKEN is not accepted" in one_line(ended, 1)["error"]
    assert "pst-tunnels-nobody" not in ended.err


def test_a_platform_that_is_not_there_is_named(run: Callable[..., Ended]) -> None:
    assert one_line(run("--api-url", "http://127.0.0.1:9"), 1)["error"] == "nothing listens at http://127.0.0.1:9"
    assert one_line(run("--api-url", "bogus"), 2)["error"] == "'bogus' is not the URL of an API"


def test_a_route_nobody_answers_at_ends_it_before_anything_is_made(run: Callable[..., Ended], tmp_path: Path) -> None:
    found = one_line(run("--route", "off=http://127.0.0.1:9"), 2)
    assert found["error"] == "--route off: nothing answers at http://127.0.0.1:9"
    assert not (tmp_path / ".penstock-stack" / "tunnel-id").exists()
    assert "--route" in one_line(run("--route", "OFF"), 2)["error"]


def test_a_tunnel_that_is_not_there_a_folder_and_a_key_type_that_are_none_are_named(
    run: Callable[..., Ended], tmp_path: Path
) -> None:
    assert "no tunnel tnl_01Nobody" in one_line(run("--tunnel-id", "tnl_01Nobody"), 2)["error"]
    (tmp_path / "file").write_text("")
    assert one_line(run("--dir", "file"), 2)["error"].startswith("cannot write to file: ")
    assert "rsa or ecdsa" in one_line(run("--key-type", "dsa"), 2)["error"]
    assert "--allow-ip" in one_line(run("--allow-ip", "bogus"), 2)["error"]


def test_a_busy_port_is_named_with_whose_it_is(run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        taken = HostPort("127.0.0.1", busy.getsockname()[1])
        monkeypatch.setattr(ports, "choose_free", lambda kind: kind(proxy=taken))
        ended = run()
    found = one_line(ended, 2)
    assert found["error"] == f"port {taken.port} for the proxy is in use"
    assert "--free-ports" in found["hint"]


def test_without_an_edge_the_agent_says_so_and_nothing_is_left_running(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.stack.private_side._LINKS_SECONDS", 0.2)
    ended = run()
    assert ended.code in {1, 2}
    assert "hint: " in ended.err
    assert "Traceback" not in ended.err


def test_help_opens_with_examples_and_what_is_needed_is_asked_for(command: Callable[..., Ended]) -> None:
    ended = command("stack", "--help")
    assert "API_TOKEN=… penstock stack --api-url" in ended.out
    assert command("stack", "--api-url", "http://x").code == 2
