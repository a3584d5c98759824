"""Every command of `penstock`, as Typer sees them. What a command needs is imported when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Final, Protocol, cast

import typer

from penstock import __version__


class _Room(Protocol):
    def add_to(self, app: typer.Typer, /) -> None: ...


_ROOMS: Final = {
    "up": "up",
    "stack": "stack",
    "control": "control",
    "edge": "roles",
    "proxy": "roles",
    "agent": "agent",
    "token": "agent",
    "tools": "call",
    "call": "call",
    "login": "login",
    "logout": "login",
    "password": "login",
    "setup": "setup",
    "health": "health",
    "whoami": "resources",
    "tunnels": "resources",
    "links": "resources",
    "workspaces": "resources",
    "users": "resources",
    "api-keys": "resources",
    "tunnels-keys": "resources",
    "service-accounts": "resources",
    "federation": "resources",
    "callers": "resources",
    "audit": "resources",
    "organizations": "resources",
    "edges": "resources",
    "pins": "pins",
}
"""The module of each command, in the order of help."""
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

    Importing all of them takes 40 ms, and Typer, which reads their signatures, 100.
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
    rooms = [_ROOMS[command]] if command in _ROOMS else dict.fromkeys(_ROOMS.values())
    for room in rooms:
        cast("_Room", import_module(f"penstock.cli.{room}")).add_to(app)
    return app


def _version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    if value:
        print(__version__)  # noqa: T201 - data on stdout
        raise typer.Exit


def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,  # noqa: FBT002 - typer's way of a flag
) -> None:
    del version
