from __future__ import annotations

import contextlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from tests.cli.conftest import Ended

ONE_LINE = re.compile(r"penstock: (?P<error>[^\n]+)\n(  because: [^\n]+\n)?  hint: (?P<hint>[^\n]+)\n")


PROGRESS = re.compile(r"  (control|edge|proxy|agent) {2,}|! |\{")  # steps, notes, and what roles log


def one_line(ended: Ended, code: int) -> re.Match[str]:
    """The one line and the hint that a failure is."""
    assert ended.code == code, ended
    said = "".join(line for line in ended.err.splitlines(keepends=True) if not PROGRESS.match(line))
    found = ONE_LINE.fullmatch(said)
    assert found is not None, ended.err
    return found


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "route",
    [
        *("x", "=http://a", "X=http://a", "a.b=http://a", "-a=http://a", "x=", "x=127.0.0.1:9000", "x=ftp://a", "x=http://"),
        *("x=http://a:99999", "x=http://a:b", "x=http://u:p@a", "x=http://a?q", "x=http://a#f", "x=http://[::1"),
    ],
)
def test_a_route_that_is_none_is_a_usage_error(command: Callable[..., Ended], route: str) -> None:
    found = one_line(command("up", "--once", "--free-ports", "--route", route), 2)
    assert "--route" in found["error"]
    assert "for example" in found["hint"]


def test_a_route_given_twice_is_a_usage_error(command: Callable[..., Ended]) -> None:
    found = one_line(command("up", "--route", "x=http://127.0.0.1:1", "--route", "x=http://127.0.0.1:2"), 2)
    assert "x is given twice" in found["error"]


@pytest.mark.parametrize("network", ["bogus", "10.0.0.0/33", "10.0.0.1/8 ", "", "http://10.0.0.1"])
def test_a_network_that_is_none_is_a_usage_error(command: Callable[..., Ended], network: str) -> None:
    assert "--allow-ip" in one_line(command("up", "--once", "--allow-ip", network), 2)["error"]


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/penstock"])
def test_a_folder_that_cannot_be_written_is_named(command: Callable[..., Ended], tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    found = one_line(command("up", "--once", "--free-ports", "--dir", folder), 2)
    assert found["error"].startswith(f"cannot write to {folder}: ")
    assert "--dir" in found["hint"]


def test_a_route_nobody_answers_at_ends_it_before_anything_starts(
    command: Callable[..., Ended], tmp_path: Path, closed_port: int
) -> None:
    found = one_line(command("up", "--once", "--free-ports", "--route", f"my=http://127.0.0.1:{closed_port}"), 2)
    assert found["error"] == f"--route my: nothing answers at http://127.0.0.1:{closed_port}"
    assert "start your MCP server first" in found["hint"]
    assert not (tmp_path / ".penstock" / "control").exists()


def test_a_busy_port_is_named_with_whose_it_is(command: Callable[..., Ended]) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else has it: as good
            stack.enter_context(socket.create_server(("127.0.0.1", 8700)))
        found = one_line(command("up", "--once"), 2)
    assert found["error"] == "port 8700 for the control plane's API is in use"
    assert "--free-ports" in found["hint"]


@contextlib.contextmanager
def stranger(answer: bytes) -> Generator[str]:
    """A server that is no MCP server."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.wfile.write(answer)
            self.close_connection = True

        do_GET = do_POST  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            serving.join()


_FAILED = "the call through my failed"
_GARBLED = "the upstream of this route gave no proper answer (upstream_protocol)"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "the MCP server answered 404 at https://my."),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>", _FAILED),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnull", _FAILED),
        (b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n", _FAILED),
        (b"SSH-2.0-OpenSSH_9.9\r\n", _GARBLED),
        (b"", _GARBLED),
    ],
    ids=["404", "html", "null", "401", "ssh", "nothing"],
)
def test_once_fails_with_1_when_the_route_is_no_mcp_server(command: Callable[..., Ended], answer: bytes, said: str) -> None:
    with stranger(answer) as url:
        found = one_line(command("up", "--once", "--free-ports", "--route", f"my={url}"), 1)
    assert found["error"].startswith(said)
    assert found["hint"]


def test_help_opens_with_examples(command: Callable[..., Ended]) -> None:
    ended = command("up", "--help")
    assert ended.code == 0
    assert "penstock up --route my=http://127.0.0.1:9000" in ended.out


def test_an_empty_folder_name_is_not_this_folder(command: Callable[..., Ended], tmp_path: Path) -> None:
    found = one_line(command("up", "--once", "--dir", ""), 2)
    assert "--dir is empty" in found["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("upstream", "hint"), [("http://192.0.2.7:9", "--allow-ip"), ("http://169.254.169.254", "clouds keep credentials")]
)
def test_an_address_that_the_proxy_would_refuse_is_refused_before_anything_is_dialled(
    command: Callable[..., Ended], upstream: str, hint: str
) -> None:
    found = one_line(command("up", "--once", "--free-ports", "--route", f"my={upstream}"), 2)
    assert found["error"] == "--route my: the proxy may not dial its address"
    assert hint in found["hint"]
    assert "upstream.allowed_ips" not in found["hint"]


def test_a_folder_whose_store_is_lost_is_to_be_moved_away(command: Callable[..., Ended], tmp_path: Path) -> None:
    assert command("up", "--once", "--free-ports").code == 0
    modes = {name: (tmp_path / ".penstock" / name).stat().st_mode & 0o777 for name in ("lock", "control/control.db")}
    assert set(modes.values()) == {0o600}, modes
    for file in (tmp_path / ".penstock/control").glob("control.db*"):
        file.unlink()
    found = one_line(command("up", "--once", "--free-ports"), 2)
    assert "control.db is gone" in found["error"]
    assert "move the folder away" in found["hint"]
