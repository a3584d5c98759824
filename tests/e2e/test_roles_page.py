"""docs/operations/roles.md as it stands: files written, commands typed, one after the other; only the ports are others."""

from __future__ import annotations

import contextlib
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from tests.support.pages import Page
from tests.support.terminal import Terminal, of_a_newcomer

from penstock.up.options import Ports
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PAGE = Page("operations/roles.md")
_SECONDS = 90.0  # on a machine that does much else besides


def until_ready(terminal: Terminal, url: str) -> None:
    """What runs there answers, with anything that is not 503."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        assert terminal.is_open, terminal.said
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as exc:
            if exc.code != 503:
                return
        except OSError:
            pass
        time.sleep(0.05)
    pytest.fail(terminal.said)


def test_the_page_is_followed_word_by_word_to_a_call(tmp_path: Path) -> None:
    ports, sample = choose_free(), choose_free().control.port
    names = ("control", "callers", "agents", "proxy")
    moved = {"9000": str(sample)} | {str(getattr(Ports(), name).port): str(getattr(ports, name).port) for name in names}
    admins = {  # from the environment, as the page says that any setting may be
        "PENSTOCK_CONTROL_ADMIN_ADDR": str(ports.control_admin),
        "PENSTOCK_EDGE_ADMIN_ADDR": str(ports.edge_admin),
        "PENSTOCK_PROXY_ADMIN_ADDR": str(ports.proxy_admin),
        "TUNNEL_METRICS": str(ports.agent_metrics),
    }
    ready = iter(
        (
            f"{ports.control_admin}/readyz",
            f"{ports.edge_admin}/readyz",
            f"127.0.0.1:{sample}/",
            f"{ports.proxy_admin}/readyz",
            f"{ports.agent_metrics}/ready",
        )
    )
    said = ""
    with contextlib.ExitStack() as opened:

        def terminal() -> Terminal:
            return opened.enter_context(Terminal(tmp_path, of_a_newcomer(tmp_path, **admins), changes=moved))

        first = terminal()
        for language, kind, block in PAGE.all_blocks():
            if language == "yaml":
                (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(first.changed(block))
            elif kind == "stays":
                (another := terminal()).start(block)
                until_ready(another, f"http://{next(ready)}")
            else:
                said = first.type(block)
    assert next(ready, None) is None
    assert said.splitlines()[-1] == "Hello, you! This answer came through the tunnel."
    assert oct((tmp_path / "initial.json").stat().st_mode & 0o777) == "0o600"
