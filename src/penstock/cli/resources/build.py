"""Makes a command of every row of the table: a signature for Typer out of its ids and flags, and what then happens."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from penstock.cli.late import late
from penstock.cli.output import EXIT_FAILED, talk
from penstock.cli.resources import options
from penstock.cli.resources.table import Kind, ids_of
from penstock.errors import ConfigError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.cli.resources.table import Command, Flag, Resource

_TYPES: Final[dict[Kind, Any]] = {
    Kind.TEXT: str | None,
    Kind.NUMBER: int | None,
    Kind.SWITCH: bool | None,
    Kind.FILE: str | None,
    Kind.JSON_FILE: str | None,
    Kind.PAIRS: list[str] | None,
    Kind.LIST: list[str] | None,
}
_METAVARS: Final = {Kind.FILE: "FILE", Kind.JSON_FILE: "FILE", Kind.PAIRS: "NAME=VALUE"}
_COMMON: Final[dict[str, Any]] = {"api_url": options.ApiUrl, "api_key_file": options.ApiKeyFile, "ca_file": options.CaFile}
_JSON: Final = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
_YES: Final = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_LIMIT: Final = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.")]
_SECRET_FILE: Final = Annotated[
    Path | None, typer.Option("--secret-file", metavar="FILE", help="Write the secret there (0600) and do not print it.")
]


def add_to(app: typer.Typer, resources: Iterable[Resource]) -> None:
    """Register every resource."""
    for resource in resources:
        group = typer.Typer(cls=late(partial(_fill, resource)), help=resource.help, no_args_is_help=True)
        app.add_typer(group, name=resource.name)


def _fill(resource: Resource, group: typer.Typer) -> None:
    add_commands(group, resource.commands)
    add_to(group, resource.below)
    if resource.more is not None:
        resource.more(group)


def add_commands(group: typer.Typer, commands: Iterable[Command]) -> None:
    """Register commands beside others that a group has."""
    for command in commands:
        group.command(command.name, help=command.help)(_function(command))


def _function(command: Command) -> Any:
    def call(**values: Any) -> None:
        _run(command, values)

    call.__signature__ = inspect.Signature(list(_parameters(command)))  # pyright: ignore[reportFunctionMemberAccess]  # PEP 362; Typer reads it
    return call


def _parameters(command: Command) -> Iterator[inspect.Parameter]:
    parameter = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    for name in ids_of(command):
        yield parameter(name, annotation=Annotated[str, typer.Argument(metavar=name.upper())])
    for flag in command.flags:
        missing: Any = {} if flag.is_required else {"default": None}
        yield parameter(flag.name, annotation=_annotation(flag), **missing)
    if command.is_list:
        yield parameter("limit", annotation=_LIMIT, default=command.newest)
    if command.reveals is not None:
        yield parameter("secret_file", annotation=_SECRET_FILE, default=None)
    if command.asks is not None:
        yield parameter("yes", annotation=_YES, default=False)
    if command.in_workspace:
        yield parameter("workspace", annotation=options.Workspace, default=None)
    for name, annotation in _COMMON.items():
        yield parameter(name, annotation=annotation, default=None)
    yield parameter("as_json", annotation=_JSON, default=False)


def _annotation(flag: Flag) -> Any:
    kind: Any = Literal[flag.choices] if flag.choices else _TYPES[flag.kind]
    if flag.choices and not flag.is_required:
        kind = kind | None
    names = [f"{flag.option}/--no-{flag.option[2:]}"] if flag.kind is Kind.SWITCH else [flag.option]
    if flag.name.startswith("include_"):
        names = [flag.option]
    return Annotated[kind, typer.Option(*names, metavar=_METAVARS.get(flag.kind), help=flag.help)]


def _run(command: Command, values: dict[str, Any]) -> None:
    from penstock.cli.resources import output, request  # noqa: PLC0415 - only when asked for
    from penstock.cli.resources.credential import open_client  # noqa: PLC0415

    path = request.path_of(command, values)
    body = request.body_of(command, values)
    secret_file: Path | None = values.get("secret_file")
    if secret_file is not None:
        output.check_secret_file(secret_file)
    chosen = options.Options(values["api_url"], values["api_key_file"], values["ca_file"], values.get("workspace"))
    client = open_client(chosen, os.environ)
    if command.asks is not None and not values["yes"]:
        _ask(command.asks.format(**values))

    async def perform() -> Any:
        async with client:
            return await request.perform(client, command, path, body, values.get("limit"))

    output.show(command, asyncio.run(perform()), as_json=values["as_json"], secret_file=secret_file)


def _ask(question: str) -> None:
    """Let a person agree. Raises Exit where they do not, ConfigError where there is nobody."""
    if not sys.stdin.isatty():
        raise ConfigError(f"this would {one_line(question)}, and there is no terminal to ask", hint="add --yes")
    talk().print(f"{one_line(question)}? [y/N] ", end="", markup=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise typer.Exit(EXIT_FAILED)
