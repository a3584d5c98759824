"""The roles that run alone, each from a config file: `penstock edge` and `proxy`; `control` and `agent` are beside this."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.arguments import PROXY_CONFIG
from penstock.cli.output import missing_extra
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.cli.run import Role
    from penstock.config.load import RoleConfig

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The role's settings, YAML.")]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="debug, info, warn or error.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("edge", help="The relay that agents and callers dial.")(_edge)
    app.command("proxy", help="Ends inner TLS, checks addresses, routes by host name.")(_proxy)


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
    from penstock.cli.run import run_role  # noqa: PLC0415 - only when asked for
    from penstock.config.load import as_yaml, load  # noqa: PLC0415
    from penstock.proxy.reload import Source  # noqa: PLC0415
    from penstock.telemetry.log import configure, get_logger  # noqa: PLC0415

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
        configure(settings.log_level)
        check_files(settings, get_logger("proxy"))
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
    from penstock.cli.run import run_role  # noqa: PLC0415 - only when asked for
    from penstock.config.load import load  # noqa: PLC0415
    from penstock.telemetry.log import configure, parse_level  # noqa: PLC0415

    settings: RoleConfig = load(model, role=role, file=file, environment=os.environ, flags=flags)
    configure(parse_level(log_level or getattr(settings, "log_level", "info")))
    run_role(lambda: make(settings))
