"""Carries out one row of the table: what to send, page after page, and every refusal as an error with a hint."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.cli.resources.table import Kind, ids_of
from penstock.client.control import ControlClient, segment
from penstock.config.files import read_file
from penstock.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from penstock.cli.resources.table import Command, Flag

_LONGEST_PAGE: Final = 100  # every list of the API takes that many
_FILE_LIMIT: Final = 1 << 20  # the API takes less; this keeps a wrong file out of memory


def path_of(command: Command, ids: Mapping[str, str]) -> str:
    """The path with the ids in it. Raises ConfigError for what is not an id."""
    return command.path.format(**{name: segment(ids[name]) for name in ids_of(command)})


def body_of(command: Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags amount to. Raises ConfigError for a file that cannot be read, and for an update without a change."""
    given = [(flag, values[flag.name]) for flag in command.flags if values.get(flag.name) not in (None, [])]
    if command.needs_change and not given:
        raise ConfigError("nothing to change", hint=f"give one of {', '.join(flag.option for flag in command.flags)}")
    body: dict[str, Any] = {}
    for flag, value in given:
        _put(body, flag.place, _value(flag, value))
        for place, implied in flag.implies.items():
            _put(body, place, implied, only_if_missing=True)
    for place, value in command.sends.items():
        _put(body, place, value)
    return body


async def perform(client: ControlClient, command: Command, path: str, body: Mapping[str, Any], most: int | None) -> Any:
    """The answer: an object, or the items of a list, `most` of them at most. Raises PenstockError, never ConfigError."""
    with refused_as_failures():
        if command.is_list:
            return await _items(client, command, path, body, most)
        if command.method == "GET":
            return await client.ask("GET", path, params=body)
        return await client.ask(command.method, path, json=body if body or command.flags else None)


async def lines_of(client: ControlClient, path: str, query: Mapping[str, Any]) -> AsyncGenerator[str]:
    """The lines of an answer that may be longer than memory. Raises as `perform`."""
    async with client:
        with refused_as_failures():
            async with contextlib.aclosing(client.lines(path, query)) as lines:
                async for line in lines:
                    yield line


@contextlib.contextmanager
def refused_as_failures() -> Generator[None]:
    """What the platform refuses is no wrong command: that was well formed, and the exit code is 1."""
    try:
        yield
    except ConfigError as exc:
        raise PenstockError(exc.public, detail=exc.detail, hint=exc.hint or "--help says what the command takes") from exc


async def _items(
    client: ControlClient, command: Command, path: str, query: Mapping[str, Any], most: int | None
) -> list[dict[str, Any]]:
    """The API has two manners of paging: a cursor for the next page, and the last id seen."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        wanted = _LONGEST_PAGE if most is None or command.only else min(_LONGEST_PAGE, most - len(items))
        page = await client.ask("GET", path, params={**query, "limit": wanted, **cursor})
        found: list[dict[str, Any]] = page.get("data", [])
        items += [item for item in found if all(item.get(name) == value for name, value in command.only.items())]
        if most is not None and len(items) >= most:
            return items[:most]
        if page.get("next_page"):
            cursor = {"page": page["next_page"]}
        elif page.get("has_more") and page.get("last_id"):
            cursor = {"after_id": page["last_id"]}
        else:
            return items


def _value(flag: Flag, value: Any) -> Any:
    match flag.kind:
        case Kind.FILE:
            return _read(flag, value)
        case Kind.JSON_FILE:
            return _keys(flag, _read(flag, value))
        case Kind.PAIRS:
            return dict(_pair(flag, text) for text in value)
        case _:
            return value


def _read(flag: Flag, name: str) -> str:
    if name == "-":
        return sys.stdin.read(_FILE_LIMIT)
    text = read_file(Path(name))
    if text is None:
        raise ConfigError(f"{flag.option}: there is no file {name}", hint="name a file, or - for stdin")
    if len(text) > _FILE_LIMIT:
        raise ConfigError(f"{flag.option}: {name} is over {_FILE_LIMIT >> 20} MiB", hint="is it the right file?")
    return text


def _keys(flag: Flag, text: str) -> Any:
    """A key set is published as an object around the array that the API wants."""
    try:
        read: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{flag.option}: not JSON: {exc}", hint="it is a JWKS, or an array of JWKs") from None
    return cast("dict[str, Any]", read).get("keys", read) if isinstance(read, dict) else read


def _pair(flag: Flag, text: str) -> tuple[str, str]:
    found = re.fullmatch(r"([^=]+)=(.*)", text, re.DOTALL)
    if found is None:
        raise ConfigError(f"{flag.option}: {text!r} is not NAME=VALUE", hint="for example team=blue")
    return found[1], found[2]


def _put(body: dict[str, Any], place: str, value: Any, *, only_if_missing: bool = False) -> None:
    *above, last = place.split(".")
    for name in above:
        body = body.setdefault(name, {})
    if only_if_missing:
        body.setdefault(last, value)
    else:
        body[last] = value
