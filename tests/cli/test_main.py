from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command

import penstock
from penstock.cli import commands
from penstock.cli.arguments import accept_go_flags
from penstock.cli.output import data, one_line, report, talk
from penstock.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Ended


def test_the_version_is_data_on_stdout(command: Callable[..., Ended]) -> None:
    assert command("--version") == (0, f"{penstock.__version__}\n", "")


def test_help_names_every_command_and_opens_with_examples(command: Callable[..., Ended]) -> None:
    ended = command("--help")
    assert ended.code == 0
    assert ended.out.index("penstock up ") < ended.out.index("Options:")
    for name in ("up", "stack", "control", "edge", "agent", "proxy", "call", "tools"):
        assert f"\n  {name} " in ended.out


def test_help_imports_no_role() -> None:
    script = """
import sys
from penstock.cli.main import main
sys.argv = ["penstock", "--help"]
try:
    main()
except SystemExit:
    rooms = ("penstock.edge.server", "penstock.proxy.server", "sqlalchemy", "fastapi", "mcp", "httpx2")
    print([name for name in rooms if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("error", "code"), [(ConfigError("x"), 2), (PenstockError("x"), 1)])
def test_a_wrong_setting_exits_2_and_everything_else_1(error: PenstockError, code: int) -> None:
    assert report(error) == code


def test_an_error_is_one_line_its_reason_and_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    report(PenstockError("first\nsecond", detail="a\r\nb", hint="try\tthis"))
    assert capsys.readouterr().err == "penstock: first second\n  because: a b\n  hint: try this\n"


def test_a_path_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    talk().print("dir:x: done", markup=False)
    data().print("dir:x: done", markup=False)
    assert capsys.readouterr() == ("dir:x: done\n", "dir:x: done\n")


def test_nothing_a_peer_wrote_can_steer_the_terminal() -> None:
    assert one_line("\x1b]0;title\x07 \x9b2J ü → 𝄞") == "?]0;title? ?2J ü → 𝄞"


def test_an_unforeseen_error_is_one_line_unless_asked_for_more(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: object) -> None:
        msg = "unforeseen"
        raise RuntimeError(msg)

    monkeypatch.setattr(commands, "program", lambda _: fails)
    ended = command("up")
    assert ended.code == 1
    assert "penstock: internal error" in ended.err
    assert "RuntimeError: unforeseen" in ended.err
    assert "Traceback" not in ended.err
    monkeypatch.setenv("PENSTOCK_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        command("up")


@pytest.mark.parametrize("exc", [KeyboardInterrupt])
def test_an_interruption_exits_130(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, exc: type[BaseException]
) -> None:
    def interrupted(**_: object) -> None:
        raise exc

    monkeypatch.setattr(commands, "program", lambda _: interrupted)
    assert command("up") == (130, "", "")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["proxy", "-config", "x"], ["proxy", "--config", "x"]),
        (["proxy", "-config=x=y"], ["proxy", "--config=x=y"]),
        (["proxy", "-tunnel-domain", "d"], ["proxy", "--tunnel-domain", "d"]),
        (["proxy", "--config", "x"], ["proxy", "--config", "x"]),
        (["edge", "-config", "x"], ["edge", "-config", "x"]),
        ([], []),
    ],
)
def test_the_published_proxys_flags_are_taken(given: list[str], taken: list[str]) -> None:
    assert accept_go_flags(given) == taken


@pytest.mark.parametrize("role", ["up", "stack", "control", "edge", "agent", "proxy"])
def test_a_role_whose_libraries_are_missing_says_what_to_install(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    module = {"up": "penstock.up.program", "stack": "penstock.stack.program"}.get(role, f"penstock.{role}.server")
    monkeypatch.setitem(sys.modules, module, None)
    needed = {"stack": ("--api-url", "http://127.0.0.1:9", "--route", "x=http://127.0.0.1:9")}.get(role, ())
    ended = command(role, *needed)
    assert ended.code == 2
    assert ended.err.endswith(f"hint: in the clone it was installed from: pip install '.[{role}]'\n")


@pytest.mark.parametrize("arguments", [["edge"], ["control"], ["control", "backup", "copy"], ["audit", "verify"], ["proxy"]])
def test_a_role_without_settings_says_how_they_are_given(command: Callable[..., Ended], arguments: list[str]) -> None:
    ended = command(*arguments)
    assert ended.code == 2
    assert "hint: " in ended.err
    assert "--config FILE" in ended.err
    assert "check the path given" not in ended.err


def test_help_is_a_word_too(command: Callable[..., Ended]) -> None:
    assert command("help") == command("--help")
    assert command("help", "up").out.startswith("Usage: penstock up ")


def test_a_command_is_made_by_itself_and_is_the_one_that_help_names() -> None:
    every: Any = get_command(commands.program())
    for name in every.commands:
        alone: Any = get_command(commands.program(name))
        assert name in alone.commands
        assert set(alone.commands) < set(every.commands)
        assert alone.commands[name].get_short_help_str() == every.commands[name].get_short_help_str()
