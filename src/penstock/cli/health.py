"""`penstock health` among the other commands: its help. What it does is in `probe`, which starts without Typer."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated, Final

import typer

from penstock.config import admin

_HELP: Final = f"""Ask a role ({", ".join(admin.ADDRESSES)}) on this machine whether it is ready.

    \b
    penstock health proxy --config proxy.yaml      where its settings say that its admin port is
    penstock health edge --addr 127.0.0.1:8444     there
    penstock health                                in a container: the role that it runs

    Exit codes: 0 ready, 1 not, 2 wrong settings.
    """


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("health", help=_HELP, context_settings={"help_option_names": ["--help", "-h"]})(_health)


def _health(
    role: Annotated[str | None, typer.Argument(metavar="ROLE", help="In a container, what it runs.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="The role's settings, YAML.")] = None,
    addr: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The admin port, wherever the settings say it is.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Only whether it answers at all.")] = False,  # noqa: FBT002 - typer's way of a flag
) -> None:
    from penstock.cli import probe  # noqa: PLC0415 - only when asked for

    given = {"--config": config, "--addr": addr}
    options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    probe.main([*([role] if role is not None else []), *options, *(["--live"] if live else [])])
