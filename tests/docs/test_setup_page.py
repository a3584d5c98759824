"""docs/operations/setup.md: the flags, the entries and the modes are the program's, and every test it names exists."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.support.pages import Page, is_test
from typer.main import get_command

from penstock.cli.commands import program
from penstock.setup import material

PAGE = Page("operations/setup.md")


def commands() -> dict[str, Any]:
    setup: Any = get_command(program())
    return dict(setup.commands["setup"].commands)


def test_every_flag_is_told_with_the_commands_that_have_it() -> None:
    told: dict[str, set[str]] = {}
    for line in re.findall(r"^\| `--.*$", PAGE.text, re.MULTILINE):
        flag, _, of, *_ = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        told[flag] = set(commands()) if of == "all" else set(of.split(", "))
    real: dict[str, set[str]] = {}
    for name, command in commands().items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                real.setdefault(parameter.opts[0], set()).add(name)
    assert told == real


def test_every_variable_is_told() -> None:
    variables = {p.envvar for command in commands().values() for p in command.params if isinstance(p.envvar, str)}
    assert variables == {"API_URL", "TUNNEL_ID"}
    assert all(f"`{name}`" in PAGE.text for name in variables)


def test_every_entry_is_told_with_its_mode() -> None:
    table = re.findall(r"^\|.*\|$", PAGE.text.partition("## What an output holds")[2], re.MULTILINE)
    for entry in material.ALL:
        line = next((line for line in table if f"`{entry}`" in line), None)
        if line is None:
            assert entry.startswith(("setup-", "ca-next.")), entry
        else:
            assert ("0644" if entry in material.PUBLIC else "0600") in line, entry


@pytest.mark.parametrize(("file", "name"), PAGE.named_tests())
def test_every_test_it_names_exists(file: str, name: str) -> None:
    assert is_test(file, name)
