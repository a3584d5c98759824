"""The roles that run alone, each from a config file: `penstock control`, `edge` and `proxy`; `agent` is beside this."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock.cli import initial, store
from penstock.cli.output import missing_extra
from penstock.cli.run import run_role
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.cli.run import Role
    from penstock.config.load import RoleConfig

PROXY_CONFIG: Final = Path("/etc/mcp-gateway/config.yaml")  # the published image's place
_GO_FLAGS: Final = {
    f"-{name}": f"--{name}" for name in ("config", "tunnel-domain", "check-config", "no-watch-config", "log-level")
}

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The role's settings, YAML.")]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="debug, info, warn or error.")]


def accept_go_flags(arguments: Sequence[str]) -> list[str]:
    """The published proxy takes Go's single-dash flags: `-config FILE` and `-config=FILE` mean `--config`."""
    if not arguments or arguments[0] != "proxy":
        return list(arguments)
    accepted: list[str] = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        accepted.append(_GO_FLAGS.get(name, name) + separator + value)
    return accepted


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    control = typer.Typer(help="The control plane: tunnels, certificates, callers, edges.", invoke_without_command=True)
    control.callback()(_control)
    control.command(
        "init", help="Make the first operator, organization, admin, workspace, keys and enrolment token; printed once."
    )(_init)
    control.command("create-workspace", help="Make a workspace.")(_create_workspace)
    control.command("create-operator", help="Make one more platform operator; the password is printed once.")(_create_operator)
    control.command("reset-password", help="A new password for a user who is locked out; printed once.")(_reset_password)
    control.command("create-api-key", help="Make an API key for a workspace; printed once.")(_create_api_key)
    store.add_to(control)
    app.add_typer(control, name="control")
    app.command("edge", help="The relay that agents and callers dial.")(_edge)
    app.command("proxy", help="Ends inner TLS, checks addresses, routes by host name.")(_proxy)


def _control(context: typer.Context, config: ConfigOption = None, log_level: LogLevel = None) -> None:
    if context.invoked_subcommand is not None:
        return
    try:
        from penstock.control.config import ControlConfig  # noqa: PLC0415 - only when asked for
        from penstock.control.server import Control  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing_extra("control", exc)
    start_role("control", ControlConfig, Control, config, log_level)


def _edge(
    config: ConfigOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that share the ports, a core each.")
    ] = None,
    log_level: LogLevel = None,
) -> None:
    try:
        from penstock.edge.config import EdgeConfig  # noqa: PLC0415 - only when asked for
        from penstock.edge.server import Edge  # noqa: PLC0415
        from penstock.edge.workers import Worker, Workers  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing_extra("edge", exc)

    def make(settings: EdgeConfig) -> Role:
        if settings.is_worker:
            return Worker(settings)
        if settings.workers == 1:
            return Edge(settings)
        given = {"--config": config, "--log-level": log_level}
        arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
        return Workers(settings, [sys.executable, "-m", "penstock", "edge", *arguments])

    start_role("edge", EdgeConfig, make, config, log_level, {"workers": workers})


def _proxy(
    config: ConfigOption = None,
    tunnel_domain: Annotated[str | None, typer.Option("--tunnel-domain", help="Overrides tunnel_domain of the file.")] = None,
    check_config: Annotated[  # noqa: FBT002 - typer's way of a flag
        bool, typer.Option("--check-config", help="Check settings and the files they name, print what holds, and end.")
    ] = False,
    no_watch_config: Annotated[  # noqa: FBT002 - as above
        bool, typer.Option("--no-watch-config", help="Read settings again only on SIGHUP, not when their file changes.")
    ] = False,
    log_level: LogLevel = None,
) -> None:
    try:
        from penstock.proxy.config import ProxyConfig  # noqa: PLC0415 - only when asked for
        from penstock.proxy.server import Proxy, check_files  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        missing_extra("proxy", exc)
    from penstock.config.load import as_yaml, load  # noqa: PLC0415 - only when asked for
    from penstock.proxy.reload import Source  # noqa: PLC0415
    from penstock.telemetry.log import configure  # noqa: PLC0415

    file = config or PROXY_CONFIG
    if config is None and not file.exists():
        raise ConfigError(
            f"open {file}: no such file or directory", hint="that is where settings are without --config; give --config FILE"
        )

    def read() -> ProxyConfig:
        flags = {"tunnel_domain": tunnel_domain, "log_level": log_level}
        return load(ProxyConfig, role="proxy", file=file, environment=os.environ, flags=flags)

    settings = read()
    if check_config:
        check_files(settings)
        print(as_yaml(settings), end="")  # noqa: T201 - data on stdout
        return
    configure(settings.log_level)
    source = Source(read, None if no_watch_config else file, lambda adopted: configure(adopted.log_level))
    run_role(lambda: Proxy(settings, source=source))


def start_role(
    role: str,
    model: type[Any],
    make: Callable[[Any], Role],
    file: Path | None,
    log_level: str | None,
    flags: dict[str, Any] | None = None,
) -> None:
    """Read the settings of a role and run it until a signal comes."""
    from penstock.config.load import load  # noqa: PLC0415 - only when asked for
    from penstock.telemetry.log import configure, parse_level  # noqa: PLC0415

    settings: RoleConfig = load(model, role=role, file=file, environment=os.environ, flags=flags)
    configure(parse_level(log_level or getattr(settings, "log_level", "info")))
    run_role(lambda: make(settings))


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
