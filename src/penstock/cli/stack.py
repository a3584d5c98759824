"""`penstock stack`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.output import missing_extra, report
from penstock.cli.run import run_until_signal, unless_stopped
from penstock.net import heap

_HELP = """The whole private side in one process, against a platform elsewhere: setup if needed, then proxy and agent.

    \b
    API_TOKEN=… penstock stack --api-url https://penstock.example.com --route my=http://127.0.0.1:9000
    penstock stack --api-url … --route my=http://10.1.2.3:9000/mcp --once     prove a call, then exit

    The credential comes from the environment: API_TOKEN with a Tunnels API key, or the ANTHROPIC_* identity variables of
    `penstock setup init`. Without one the folder must be complete, from an earlier run or from `setup init`. The proof call
    is made with PENSTOCK_API_KEY, a profile or the session of `penstock login`.
    """


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("stack", help=_HELP)(stack)


def stack(
    route: Annotated[list[str], typer.Option(metavar="NAME=URL", help="Expose this MCP server; repeatable.")],
    api_url: Annotated[
        str | None, typer.Option(envvar=["PENSTOCK_API_URL", "API_URL"], help="The platform's API; has to be given.")
    ] = None,
    allow_ip: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Let upstreams resolve to this network too; private ones are allowed."),
    ] = None,
    tunnel_id: Annotated[
        str | None, typer.Option(envvar="TUNNEL_ID", help="An existing tunnel; without it the folder's, or a new one.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Exit after the proof call; 1 if it failed.")] = False,  # noqa: FBT002 - typer's way of a flag
    folder: Annotated[Path, typer.Option("--dir", help="Keys, certificates and token.")] = Path(".penstock-stack"),
    api_ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CA of a private platform; told once, kept in the folder.")
    ] = None,
    key_type: Annotated[str, typer.Option(metavar="rsa|ecdsa", help="Of a new server key.")] = "ecdsa",
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Take free ports instead of the usual ones.")] = False,  # noqa: FBT002
    log_level: Annotated[str, typer.Option(help="debug, info, warn or error: what the roles tell while they run.")] = "warn",
) -> None:
    """Set up what is missing, start, prove it with a call, stay up."""
    try:
        from penstock.setup.keys import KeyType  # noqa: PLC0415 - only when asked for
        from penstock.stack.ports import Ports, choose_free  # noqa: PLC0415
        from penstock.stack.program import Options, Running, running  # noqa: PLC0415
        from penstock.stack.routes import parse_networks, parse_routes  # noqa: PLC0415
        from penstock.stack.screen import Screen  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing_extra("stack", exc)
    from penstock.errors import ConfigError, PenstockError  # noqa: PLC0415
    from penstock.telemetry.log import configure, parse_level  # noqa: PLC0415

    configure(parse_level(log_level))
    if not api_url:
        raise ConfigError(
            "--api-url is required", hint="for example --api-url https://penstock.example.com, or PENSTOCK_API_URL"
        )
    if key_type not in {kind.value for kind in KeyType}:
        raise ConfigError(f"--key-type: {key_type!r} is not rsa or ecdsa", hint="leave it out for ecdsa")
    options = Options(
        api_url=api_url,
        routes=parse_routes(route),
        folder=folder,
        allowed=parse_networks(allow_ip or ()),
        tunnel_id=tunnel_id,
        ca_file=api_ca_file,
        key_type=KeyType(key_type),
        ports=choose_free(Ports) if free_ports else Ports(),
    )
    screen = Screen()

    async def prove(tunnel: Running) -> None:
        try:
            await tunnel.prove(tunnel.access(), screen)
        except PenstockError as exc:
            if once:
                raise
            report(exc)
            for url in tunnel.urls().values():
                screen.step(f"callers   {url}")

    async def program(stopping: asyncio.Event) -> None:
        async def work() -> None:
            async with running(options, screen) as tunnel:
                heap.resume()
                await prove(tunnel)
                if not once:
                    screen.staying()
                    await asyncio.Event().wait()  # until a signal cancels this task, once: stopping is then undisturbed

        await unless_stopped(stopping, work())

    run_until_signal(program)
