from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.stack.proof import Proof
from penstock.stack.routes import parse_routes
from penstock.up.options import Options
from penstock.up.screen import Screen

if TYPE_CHECKING:
    import pytest

URL = "https://echo.abcdefgh.tunnel.penstock.internal/mcp"


def steps(capsys: pytest.CaptureFixture[str], options: Options) -> str:
    Screen().next_steps(options, URL)
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_three_steps_with_the_url_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    said = steps(capsys, Options())
    assert [line.split(".")[0].strip() for line in said.splitlines() if line[:5].strip().rstrip(".").isdigit()] == [
        "1",
        "2",
        "3",
    ]
    assert f"call {URL} hello name=you" in said
    assert "PENSTOCK_PROFILE" not in said  # the working directory's profile is found


def test_your_own_servers_tools_are_listed_for_nothing_is_known_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    said = steps(capsys, Options(routes=parse_routes(["my=http://h:1"])))
    assert re.search(rf"1\. list its tools  \S*penstock tools {re.escape(URL)}", said)
    assert "hello" not in said
    assert "your own server" not in said


def test_after_a_proof_that_failed_it_is_said_how_to_look_again(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().try_again(Options(folder=Path("/srv/x"), routes=parse_routes(["my=http://h:1"])), {"my": URL})
    out, err = capsys.readouterr()
    assert out == ""
    assert f"tools {URL}" in err
    assert "PENSTOCK_PROFILE=/srv/x/profile.json " in err


def test_another_folders_profile_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "PENSTOCK_PROFILE=/srv/x/profile.json " in steps(capsys, Options(folder=Path("/srv/x")))


def test_a_folder_with_spaces_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert "PENSTOCK_PROFILE='/srv/my x/profile.json' " in steps(capsys, Options(folder=Path("/srv/my x")))


def test_the_command_is_relative_below_the_working_directory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "penstock"):
        (tmp_path / ".venv" / "bin" / name).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    said = steps(capsys, Options())
    assert ".venv/bin/penstock call" in said
    assert ".venv/bin/python -c" in said
    assert str(tmp_path) not in said


def test_what_a_server_answers_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().proof("my", URL, Proof("tools/list", "2 tools: [red]a[/], :smile:", ("a", "b"), 81.6, 5.44))
    assert capsys.readouterr().out == (
        "\nmy: tools/list → 2 tools: [red]a[/], :smile:\n"
        "  5.4 ms through edge, agent and proxy (and 82 ms to connect)\n"
        f"  {URL}\n"
    )


def test_what_is_done_and_noted_is_no_markup_and_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().step("proxy     127.0.0.1:8080, my → http://[fd00::1]:9000")
    Screen().note("the control plane cannot serve this now: [/oops] \x1b[31mred\nand more")
    assert capsys.readouterr().err == (
        "  proxy     127.0.0.1:8080, my → http://[fd00::1]:9000\n"
        "! the control plane cannot serve this now: [/oops] ?[31mred?and more\n"
    )
