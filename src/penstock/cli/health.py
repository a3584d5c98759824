"""`penstock health` among the other commands. Run by itself it goes straight to `probe`, and Typer is not imported."""

from __future__ import annotations

import typer  # noqa: TC002 - Typer reads the annotations

from penstock.config import admin


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        "health",
        help=(
            f"Ask a role ({', '.join(admin.ADDRESSES)}) on this machine whether it is ready; "
            "exit 0 if so, 1 if not, 2 for wrong settings."
        ),
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_health)


def _health(context: typer.Context) -> None:
    from penstock.cli import probe  # noqa: PLC0415 - only when asked for

    probe.main(context.args)
