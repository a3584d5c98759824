"""`penstock pins`: the CAs of tunnels that this user's programs remember."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from penstock.cli.output import say
from penstock.errors import ConfigError

Host = Annotated[str, typer.Argument(metavar="HOST", help="A route's host name, as in echo.ab12cd34.tunnel.example.com.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    pins = typer.Typer(help="The CAs of tunnels that are remembered here, and believed.", no_args_is_help=True)
    pins.command("list", help="Every host, and the SHA-256 fingerprints of its CAs.")(_list)
    pins.command("forget", help="Forget a host's CAs: the next call believes what the platform names.")(_forget)
    app.add_typer(pins, name="pins")


def _list() -> None:
    from penstock.client.pins import Pins, find_folder  # noqa: PLC0415 - only when asked for

    for host, fingerprints in Pins(find_folder(os.environ)).hosts().items():
        for fingerprint in fingerprints:
            say(f"{host}\t{fingerprint}")


def _forget(host: Host) -> None:
    from penstock.client.pins import Pins, find_folder  # noqa: PLC0415 - only when asked for
    from penstock.protocol.hosts import normalize_host  # noqa: PLC0415

    try:
        name = normalize_host(host)
    except ValueError as exc:
        raise ConfigError(f"{host!r} is not a host name", hint="`penstock pins list` shows those that are remembered") from exc
    say("forgotten" if Pins(find_folder(os.environ)).forget(name) else f"nothing was remembered of {name}")
