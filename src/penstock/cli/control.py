"""`penstock control`, and what is done to its store from beside it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated, Any

import typer

from penstock.cli import initial, store
from penstock.cli.late import late
from penstock.cli.output import missing_extra
from penstock.cli.roles import ConfigOption, LogLevel, start_role


def add_to(app: typer.Typer) -> None:
    """Register the command and those under it."""
    control = typer.Typer(
        cls=late(_fill), help="The control plane: tunnels, certificates, callers, edges.", invoke_without_command=True
    )
    control.callback()(_control)
    app.add_typer(control, name="control")


def _fill(control: typer.Typer) -> None:
    control.command(
        "init", help="Make the first operator, organization, admin, workspace, keys and enrolment token; printed once."
    )(_init)
    control.command("create-workspace", help="Make a workspace.")(_create_workspace)
    control.command("create-operator", help="Make one more platform operator; the password is printed once.")(_create_operator)
    control.command("reset-password", help="A new password for a user who is locked out; printed once.")(_reset_password)
    control.command("create-api-key", help="Make an API key for a workspace; printed once.")(_create_api_key)
    store.add_to(control)


def _control(context: typer.Context, config: ConfigOption = None, log_level: LogLevel = None) -> None:
    if context.invoked_subcommand is not None:
        return
    try:
        from penstock.control.config import ControlConfig  # noqa: PLC0415 - only when asked for
        from penstock.control.server import Control  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing_extra("control", exc)
    start_role("control", ControlConfig, Control, config, log_level)


def _init(
    config: ConfigOption = None,
    organization: Annotated[str, typer.Option(help="Name of the first organization.")] = "default",
    workspace: Annotated[str, typer.Option(help="Name of its first workspace.")] = "default",
    admin_email: Annotated[str, typer.Option(help="Who administers the organization.")] = "admin@localhost",
    operator_email: Annotated[str, typer.Option(help="Who runs the platform.")] = "operator@localhost",
    output: Annotated[
        str | None,
        typer.Option(metavar="dir:PATH|k8s-secret:NAME", help="Keep what is made there, private, instead of printing it."),
    ] = None,
    if_needed: Annotated[bool, typer.Option("--if-needed", help="Be content where it was done before.")] = False,  # noqa: FBT002 - typer's way of a flag
) -> None:
    settings, bootstrap = _control_rooms(config)

    async def make() -> None:
        keep = await initial.place(output) if output is not None else None
        try:
            made = await bootstrap.initialize(
                settings,
                organization=organization,
                workspace=workspace,
                admin_email=admin_email.lower(),
                operator_email=operator_email.lower(),
            )
        except bootstrap.InitializedError as exc:
            if not if_needed:
                raise
            print(exc.public, file=sys.stderr)  # noqa: T201 - talk
            return
        values = initial.values(made)
        if keep is None:
            _print_once(values)
        else:
            await keep(values)
            print(f"kept in {output}", file=sys.stderr)  # noqa: T201 - talk

    asyncio.run(make())


def _create_workspace(
    organization: Annotated[str, typer.Option(help="Id of the organization.")],
    name: Annotated[str, typer.Option(help="Its name.")],
    config: ConfigOption = None,
) -> None:
    settings, bootstrap = _control_rooms(config)
    _print_once({"workspace_id": asyncio.run(bootstrap.create_workspace(settings, organization, name))})


Email = Annotated[str, typer.Option(help="The user's address.")]


def _create_operator(email: Email, config: ConfigOption = None) -> None:
    settings, bootstrap = _control_rooms(config)
    password = asyncio.run(bootstrap.create_operator(settings, email.lower()))
    _print_once({"email": email.lower(), "password": password.reveal()})


def _reset_password(email: Email, config: ConfigOption = None) -> None:
    settings, bootstrap = _control_rooms(config)
    password = asyncio.run(bootstrap.reset_password(settings, email.lower()))
    _print_once({"email": email.lower(), "password": password.reveal()})


def _create_api_key(
    workspace: Annotated[str, typer.Option(help="Id of the workspace.")],
    config: ConfigOption = None,
) -> None:
    settings, bootstrap = _control_rooms(config)
    key = asyncio.run(bootstrap.create_api_key(settings, workspace))
    _print_once({"id": key.id, "api_key": key.secret.reveal()})


def _control_rooms(config: Path | None) -> tuple[Any, Any]:
    try:
        from penstock.control.config import ControlConfig  # noqa: PLC0415 - only when asked for
        from penstock.control.service import bootstrap  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing_extra("control", exc)
    from penstock.config.load import load  # noqa: PLC0415

    return load(ControlConfig, role="control", file=config, environment=os.environ), bootstrap


def _print_once(values: dict[str, str]) -> None:
    print(json.dumps(values, indent=2))  # noqa: T201 - data on stdout
