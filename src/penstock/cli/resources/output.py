"""How an answer is shown: columns for people, one JSON document for programs, a secret alone on stdout or in a file.

Notes go to stderr. What came over the wire is one line of printable characters before it reaches a terminal.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.cli.output import say, talk
from penstock.config.files import write_file
from penstock.errors import ConfigError, one_line
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from penstock.cli.resources.table import Command

_NOTHING: Final = "-"


def show(command: Command, answer: Any, *, as_json: bool, secret_file: Path | None) -> None:
    """Print what the command answered."""
    if command.is_list:
        _show_list(command, answer, as_json=as_json)
        return
    secret = None
    if command.reveals is not None:
        secret = Secret(str(answer.get(command.reveals, "")))
        if secret_file is not None or not as_json:
            answer = {name: value for name, value in answer.items() if name != command.reveals}
        if secret_file is not None:
            write_file(secret_file, secret.reveal() + "\n")
    if as_json:
        say(json.dumps(answer, indent=2))
    elif secret is None:
        say("\n".join(_lines_of(answer)))
    else:
        _tell(_lines_of(answer))
        if secret_file is None:
            say(secret.reveal())
    if secret is not None and secret_file is not None:
        _tell([f"the {_label(command.reveals or '')} is in {secret_file}, for you alone to read"])


def check_secret_file(file: Path) -> None:
    """Raises ConfigError now rather than after the secret was made."""
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK | os.X_OK) or file.is_dir():
        raise ConfigError(f"--secret-file: cannot write {file}", hint="name a file in a folder that you can write")


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    """Rows under their headings, two spaces between columns."""
    last = [name.rpartition(".")[2] for name in columns]
    heads = [(end if last.count(end) == 1 else name.replace(".", "_")).upper() for name, end in zip(columns, last, strict=True)]
    cells = [heads, *([_cell(_at(row, name)) for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _show_list(command: Command, items: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        say(json.dumps({"data": items}, indent=2))
    elif items:
        say("\n".join(table(items, command.columns)))
    else:
        _tell(["there are none"])


def _lines_of(answer: dict[str, Any]) -> list[str]:
    shown = {name: value for name, value in answer.items() if name != "type"}
    width = max((len(name) for name in shown), default=0)
    return [f"{name.ljust(width)}  {_cell(value)}".rstrip() for name, value in shown.items()]


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        talk().print(line, markup=False)


def _label(name: str) -> str:
    return name.replace("_", " ")


def _at(row: dict[str, Any], place: str) -> Any:
    value: Any = row
    for name in place.split("."):
        value = cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None
    return value


def _cell(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(_cell(one) for one in cast("list[Any]", value))
    if isinstance(value, dict):
        return one_line(json.dumps(value, ensure_ascii=False))
    return one_line(_time(value) if isinstance(value, str) else str(value))


def _time(text: str) -> str:
    """A time to the second; anything else as it is."""
    if len(text) < 20 or text[4:5] != "-" or text[10:11] != "T":
        return text
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return text
