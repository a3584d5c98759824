"""docs/operations/control.md: what an operator types on the machine of the control plane, as it stands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.support.pages import Page
from tests.support.terminal import Terminal, of_a_newcomer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]  # nine processes

PAGE = Page("operations/control.md")


def test_store_key_and_log_are_backed_up_rotated_and_proven_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "control.yaml").write_text("data_dir: control\ntunnel_domain: tunnel.example.com\n")
    (tmp_path / "backup").mkdir()
    with Terminal(tmp_path, of_a_newcomer(tmp_path), changes={"/backup/": f"{tmp_path}/backup/"}) as terminal:
        terminal.type("(umask 077; penstock control init --config control.yaml > initial.json)\n")
        terminal.type(PAGE.commands("backup"))
        [copy] = (tmp_path / "backup").iterdir()
        assert copy.read_bytes()[:15] == b"SQLite format 3"
        key = (tmp_path / "control/master.key").read_text()
        terminal.type(PAGE.commands("rotate"))
        assert (tmp_path / "control/master.key").read_text() != key
        ends = re.search(r"\d+:[0-9a-f]{64}", terminal.type("penstock audit verify --config control.yaml\n"))
        assert ends is not None
        terminal.changes["1042:9f2c…"] = ends[0]
        terminal.type(PAGE.commands("audit"))
        terminal.changes["1042:9f2c…"] = f"{ends[0][:-1]}{'1' if ends[0].endswith('0') else '0'}"
        assert "is not the one that was noted" in terminal.type(PAGE.commands("audit"), check=False)
