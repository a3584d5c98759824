"""README.md and docs/guides/stack.md from nothing: a clean copy of the tree, an empty environment, the commands as written."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.compose import until
from tests.support.pages import ROOT, Page
from tests.support.terminal import Terminal, of_a_newcomer

from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

README, STACK = Page("../README.md"), Page("guides/stack.md")
READY = "Ctrl-C stops it"
_CACHE = {"UV_CACHE_DIR": str(Path.home() / ".cache/uv"), "PIP_CACHE_DIR": str(Path.home() / ".cache/pip")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the repository, and nothing that was made from it."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@contextlib.contextmanager
def staying(block: str, folder: Path, path: str, changes: dict[str, str], **variables: str) -> Iterator[str]:
    """Type what stays; what it has said when it is ready."""
    environment = of_a_newcomer(folder, **_CACHE, **variables)
    environment["PATH"] = f"{path}:{environment['PATH'].partition(':')[2]}"  # no `penstock` but theirs
    with Terminal(folder, environment, changes=changes) as terminal:
        terminal.start(block)

        def is_ready() -> bool:
            assert terminal.is_open, terminal.said
            return READY in terminal.said

        until(is_ready, "ready", 240)
        yield terminal.said


def test_the_first_two_commands_do_what_they_say(clone: Path) -> None:
    shorter = {"make up ": 'make up ARGS="--once --free-ports" ', "make test ": "make test ARGS=tests/config/test_types.py "}
    with Terminal(clone, of_a_newcomer(clone, **_CACHE), changes=shorter) as terminal:
        said = terminal.type(README.commands("quickstart"))
    assert "Hello, Penstock!" in said
    assert re.search(r"\d+ passed", said)


def test_ones_own_server_is_behind_it_and_called_from_python_and_from_a_second_platform_side(
    clone: Path, tmp_path: Path
) -> None:
    port = str(choose_free().proxy.port)
    ours = {"9000": port, "--route": "--free-ports --route"}
    sample = [sys.executable, "-m", "penstock.up.sample", "--port", port]
    with contextlib.ExitStack() as running:
        server = running.enter_context(subprocess.Popen(sample, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        running.callback(server.kill)
        said = running.enter_context(staying(README.commands("route"), clone, "/nowhere", ours))
        domain = re.search(r"https://my\.([^/\s]+)", said)
        url = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert domain is not None
        assert url is not None
        python(clone, domain[1], README.blocks("mcp", language="python")[0], "Hello, you!")
        python(clone, domain[1], README.blocks("http", language="python")[0], "<Response [")

        subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
        [wheel] = (clone / "dist").glob("penstock-*.whl")
        ours |= {
            "'.[stack]'": f"'{wheel}[stack]'",
            "pst-tunnels-…": (clone / ".penstock/tunnels-key").read_text().strip(),
            "https://penstock.example.com": url[0],
        }
        for block in (STACK.commands("stays"), README.commands("stack")):
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            key = (clone / ".penstock/api-key").read_text().strip()
            with staying(block, folder, str(tmp_path / "venv/bin"), ours, PENSTOCK_API_KEY=key) as told:
                assert "my: tools/list → 1 tool: hello" in told


def python(clone: Path, domain: str, program: str, answer: str) -> None:
    """Run a program as somebody does who has made the tree's environment and is in its folder."""
    program = program.replace("echo.ab12cd34.tunnel.penstock.internal", f"my.{domain}")
    whole = f"import asyncio\nasync def main():\n{textwrap.indent(program, '    ')}\nasyncio.run(main())\n"
    command = [str(clone / ".venv/bin/python"), "-c", whole]
    environment = of_a_newcomer(clone)
    ended = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert answer in ended.stdout, ended.stderr
