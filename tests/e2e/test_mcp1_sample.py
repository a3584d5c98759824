"""The sample server's one file, alone on the SDK's older major version, exposed by `penstock up --route`."""

from __future__ import annotations

import re
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.command import SECONDS, Standing, run, standing
from tests.support.venvs import Venv

from penstock.up import sample

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.fixture(scope="module", params=["mcp>=1.10,<2", "mcp>=2"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the sample listens, run by an environment that has the SDK and nothing of Penstock."""
    folder = tmp_path_factory.mktemp("server")
    venv = Venv.make(folder / "venv")
    venv.install(request.param)
    file = Path(shutil.copy(sample.__file__, folder / "server.py"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    arguments = ["-W", "error::DeprecationWarning:__main__", str(file), "--port", str(port)]
    with standing(*arguments, folder=folder, command=venv.command("python")) as server:
        until_listening(port, server)
        yield f"http://127.0.0.1:{port}"


def until_listening(port: int, server: Standing) -> None:
    end = time.monotonic() + SECONDS
    while server.process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    server.until("no line has this")  # fails with what it said
    raise AssertionError


def test_up_exposes_it_and_lists_its_tool(address: str, tmp_path: Path) -> None:
    once = run("up", "--once", "--free-ports", "--route", f"my={address}", folder=tmp_path)
    assert once.returncode == 0, once.stderr
    assert re.search(r"^my: tools/list → 1 tool: hello$", once.stdout, re.MULTILINE)
    assert re.search(r"https://my\.[a-z0-9]+\.tunnel\.penstock\.internal/mcp$", once.stdout, re.MULTILINE)


def test_its_tool_is_called_through_the_tunnel(address: str, tmp_path: Path) -> None:
    with standing("up", "--free-ports", "--route", f"my={address}", folder=tmp_path) as up:
        up.until("Ctrl-C stops it")
        [url] = set(re.findall(r"https://my\.\S+/mcp", up.said))
        called = run("call", url, "hello", "name=old", folder=tmp_path)
    assert (called.returncode, called.stdout) == (0, "Hello, old! This answer came through the tunnel.\n"), called.stderr
