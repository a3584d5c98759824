"""Every command of `penstock`, as Typer sees them. What a command needs is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Protocol

import typer

from penstock import __version__
from penstock.cli import agent, call, control, health, login, pins, resources, roles, setup, stack, up

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Room(Protocol):
    def add_to(self, app: typer.Typer, /) -> None: ...


_ROOMS: Final[dict[str, _Room]] = {
    "up": up,
    "stack": stack,
    "control": control,
    "edge": roles,
    "proxy": roles,
    "agent": agent,
    "token": agent,
    "tools": call,
    "call": call,
    "login": login,
    "logout": login,
    "password": login,
    "setup": setup,
    "health": health,
    **dict.fromkeys(resources.NAMES, resources),
    "pins": pins,
}
_HELP: Final = """Self-hosted MCP tunnels.

\b
penstock up                                      see it work: a tool call through a real tunnel
penstock up --route NAME=http://127.0.0.1:9000   put your own MCP server behind one
penstock stack --api-url URL --route NAME=URL    the same against a platform elsewhere
penstock call URL hello name=you                 call a tool through a tunnel
penstock login --api-url URL                     sign in; penstock tunnels list, and so on
"""


def program(command: str | None = None) -> typer.Typer:
    """The program; of its commands only those beside `command`, where there is one of that name.

    Typer reads the signature of every command that it is given, which takes it 100 ms for all.
    """
    app = typer.Typer(
        name="penstock",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help=_HELP,
    )
    app.callback()(_options)
    rooms: Iterable[_Room] = [_ROOMS[command]] if command in _ROOMS else dict.fromkeys(_ROOMS.values())
    for room in rooms:
        room.add_to(app)
    return app


def _version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    if value:
        print(__version__)  # noqa: T201 - data on stdout
        raise typer.Exit


def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,  # noqa: FBT002 - typer's way of a flag
) -> None:
    del version
