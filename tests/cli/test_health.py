from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from penstock.cli import probe
from penstock.cli.arguments import ENTRY_POINT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Ended

_EDGE = """\
name: edge-1
control_url: http://127.0.0.1:1
state_dir: state
advertise_callers: edge.example.com:8443
advertise_agents: edge.example.com:7844
admin_addr: {address}
"""


@contextmanager
def _admin_port(status: int, body: bytes) -> Iterator[str]:
    """An admin port that always answers the same; its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _edge(folder: Path, address: str) -> str:
    (folder / "edge.yaml").write_text(_EDGE.format(address=address))
    return str(folder / "edge.yaml")


def test_a_ready_role_is_healthy(command: Callable[..., Ended], tmp_path: Path) -> None:
    with _admin_port(200, b"ready\n") as address:
        ended = command("health", "edge", "--config", _edge(tmp_path, address))
    assert (ended.code, ended.out, ended.err) == (0, "ready\n", "")


def test_a_role_that_is_not_ready_says_why_and_yet_lives(command: Callable[..., Ended], tmp_path: Path) -> None:
    with _admin_port(503, b"not ready: no snapshot yet\n") as address:
        config = _edge(tmp_path, address)
        ended = command("health", "edge", "--config", config)
        alive = command("health", "edge", "--live", "--config", config)
    assert ended.code == 1
    assert ended.err == "penstock: the edge is not ready: no snapshot yet\n"
    assert alive.code == 0


def test_a_role_that_is_gone_is_not_healthy(command: Callable[..., Ended], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    ended = command("health", "edge", "--config", _edge(tmp_path, address))
    assert ended.code == 1
    assert f"the edge does not answer at {address}" in ended.err
    assert "hint:" in ended.err


def test_the_agent_is_asked_where_its_variables_put_it(command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    with _admin_port(200, b"ready\n") as address:
        monkeypatch.setenv("TUNNEL_TOKEN", "token")
        monkeypatch.setenv("PENSTOCK_AGENT_METRICS", address)
        assert command("health", "agent").code == 0


@pytest.mark.parametrize(
    "started",
    [
        ["tunnel", "--no-autoupdate", "--metrics", "{address}", "run", "--url", "http://localhost:8080"],
        ["edge", "--config", "{file}"],
    ],
)
def test_a_container_knows_its_role(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, started: list[str]
) -> None:
    monkeypatch.setenv("TUNNEL_TOKEN", "token")
    monkeypatch.setattr(probe, "FIRST_PROCESS", tmp_path / "cmdline")
    with _admin_port(200, b"ready\n") as address:
        arguments = [argument.format(address=address, file=_edge(tmp_path, address)) for argument in started]
        process = ["/opt/penstock/bin/python", "-m", ENTRY_POINT, *arguments]
        (tmp_path / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in process))
        assert command("health").out == "ready\n"


@pytest.mark.parametrize(
    "started", [[], ["-tunnel-domain", "t.example.com"], ["-config={file}"], ["proxy", "-config", "{file}"]]
)
def test_a_container_of_the_published_proxy_has_its_settings_where_that_has_them(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, started: list[str]
) -> None:
    file = tmp_path / "config.yaml"
    monkeypatch.setattr(probe, "FIRST_PROCESS", tmp_path / "cmdline")
    monkeypatch.setattr(probe, "PROXY_CONFIG", file)
    arguments = [argument.format(file=file) for argument in started]
    (tmp_path / "cmdline").write_bytes("".join(f"{part}\0" for part in ("python", "-m", ENTRY_POINT, *arguments)).encode())
    with _admin_port(200, b"ready\n") as address:
        file.write_text(f"admin_addr: {address}\n")
        assert command("health") == (0, "ready\n", "")
        file.write_text("admin_addr: null\n")
        assert command("health").code == 2


@pytest.mark.parametrize(("arguments", "said"), [(["setup"], "'setup' has no admin port"), ([], "which role?")])
def test_what_has_no_admin_port_is_said(command: Callable[..., Ended], arguments: list[str], said: str) -> None:
    ended = command("health", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_an_address_that_is_given_is_asked_whatever_the_settings_say(command: Callable[..., Ended], tmp_path: Path) -> None:
    with _admin_port(200, b"ready\n") as address:
        assert command("health", "edge", "--addr", str(address), "--config", str(tmp_path / "none")) == (0, "ready\n", "")
        assert command("health", "--addr", str(address)) == (0, "ready\n", "")
    assert command("health", "edge", "--addr", "8081").code == 2


def test_its_help_looks_as_every_commands(command: Callable[..., Ended]) -> None:
    for arguments in (("health", "--help"), ("health", "-h"), ("tunnels", "list", "--help"), ("edge", "--help")):
        ended = command(*arguments)
        assert ended.code == 0
        assert ended.out.startswith(f"Usage: penstock {' '.join(arguments[:-1])} [OPTIONS]")
        assert "\nOptions:\n" in ended.out
    assert "--addr HOST:PORT" in command("health", "--help").out
    wrong = command("health", "edge", "--wrong")
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.startswith("penstock: ")
    assert "hint: " in wrong.err
