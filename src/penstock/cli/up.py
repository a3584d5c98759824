"""`penstock up`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.output import missing_extra, report
from penstock.cli.run import run_until_signal, unless_stopped
from penstock.net import heap

_HELP = """Every role in one process: see a tool call through a real tunnel.

    \b
    penstock up                                        the sample server, called through a tunnel
    penstock up --once                                 the same, then exit (1 if the call failed)
    penstock up --route my=http://127.0.0.1:9000       your own MCP server
    penstock up --route my=http://10.1.2.3:9000/mcp    with the path of its endpoint

    Everything is kept in one folder (.penstock), and a second run uses it again.
    """


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("up", help=_HELP)(up)


def up(
    route: Annotated[list[str] | None, typer.Option(metavar="NAME=URL", help="Expose this MCP server; repeatable.")] = None,
    allow_ip: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Let upstreams resolve to this network too; private ones and loopback are allowed."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Exit after the proof call; 1 if it failed.")] = False,  # noqa: FBT002 - typer's way of a flag
    folder: Annotated[str, typer.Option("--dir", help="Where everything is kept.")] = ".penstock",
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Take free ports instead of the usual ones.")] = False,  # noqa: FBT002
    log_level: Annotated[str, typer.Option(help="debug, info, warn or error: what the roles tell while they run.")] = "warn",
) -> None:
    """Start every role, prove it with a call, stay up."""
    try:
        from penstock.stack.routes import parse_networks, parse_routes  # noqa: PLC0415 - only when asked for
        from penstock.up.options import Options, Ports  # noqa: PLC0415
        from penstock.up.ports import choose_free  # noqa: PLC0415
        from penstock.up.program import running  # noqa: PLC0415
        from penstock.up.screen import Screen  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing_extra("up", exc)
    from penstock.errors import ConfigError, PenstockError  # noqa: PLC0415
    from penstock.telemetry.log import configure, parse_level  # noqa: PLC0415

    if not folder.strip():  # as a path it would be this folder
        raise ConfigError("--dir is empty", hint="name a folder, for example --dir .penstock")
    configure(parse_level(log_level))
    options = Options(
        folder=Path(folder),
        routes=parse_routes(route or ()),
        allowed=parse_networks(allow_ip or ()),
        once=once,
        ports=choose_free() if free_ports else Ports(),
    )
    screen = Screen()

    async def program(stopping: asyncio.Event) -> None:
        async def work() -> None:
            async with running(options, screen) as tunnel:
                heap.resume()
                try:
                    await tunnel.prove(screen)
                except PenstockError as exc:
                    if once:
                        raise
                    report(exc)
                    screen.try_again(options, tunnel.urls())
                else:
                    if not once:
                        screen.next_steps(options, next(iter(tunnel.urls().values())))
                if not once:
                    screen.staying()
                    await asyncio.Event().wait()  # until a signal cancels this task, once: stopping is then undisturbed

        await unless_stopped(stopping, work())

    run_until_signal(program)
