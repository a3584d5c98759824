"""`penstock health`: asks a role's admin port whether it is ready, for probes that can only run a program.

The settings are read as the role reads them, so that a port which was moved is found. Inside a container the role, too, is
known: the container's first process is it.
"""

from __future__ import annotations

import http.client
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock.cli.agent import accept_cloudflared, token_flags
from penstock.cli.arguments import ENTRY_POINT, of_container
from penstock.cli.output import missing_extra, one_line, say
from penstock.cli.roles import PROXY_CONFIG, ConfigOption, accept_go_flags
from penstock.config.load import load
from penstock.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.config.load import RoleConfig
    from penstock.config.types import HostPort

_TIMEOUT: Final = 3.0  # seconds; probes are asked every few, and a role that takes longer is not well
FIRST_PROCESS: Final = Path("/proc/1/cmdline")
_ANSWER_LIMIT: Final = 1024


@dataclass(frozen=True, slots=True)
class _Probed:
    model: str
    field: str = "admin_addr"
    file: Path | None = None  # where the settings are unless said
    flags: tuple[str, ...] = ()  # of its command line, that its settings need


_ROLES: Final = {
    "control": _Probed("penstock.control.config:ControlConfig"),
    "edge": _Probed("penstock.edge.config:EdgeConfig"),
    "agent": _Probed("penstock.agent.config:AgentConfig", field="metrics", flags=("metrics",)),
    "proxy": _Probed("penstock.proxy.config:ProxyConfig", file=PROXY_CONFIG, flags=("tunnel_domain",)),
}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    names = ", ".join(_ROLES)

    @app.command(help=f"Ask a role ({names}) on this machine whether it is ready; exit 0 or 1.")
    def health(  # pyright: ignore[reportUnusedFunction] - typer has it
        role: Annotated[str | None, typer.Argument(help="In a container, what it runs.", show_default=False)] = None,
        config: ConfigOption = None,
        live: Annotated[bool, typer.Option("--live", help="Only whether it answers at all.")] = False,  # noqa: FBT002 - typer's way of a flag
    ) -> None:
        chosen, given = (role, {}) if role is not None else _of_container(app)
        if chosen not in _ROLES:
            raise ConfigError(f"{chosen!r} has no admin port", hint=f"one of {names}")
        address = _address(chosen, config, given)
        _ask(chosen, address, "/healthz" if live else "/readyz")


def _of_container(app: typer.Typer) -> tuple[str, dict[str, Any]]:
    """The role that this container runs, and its flags."""
    started = FIRST_PROCESS.read_text(errors="replace").split("\0")[:-1] if FIRST_PROCESS.exists() else []
    if ENTRY_POINT not in started:
        raise ConfigError("which role?", hint=f"penstock health ROLE, one of {', '.join(_ROLES)}")
    return parse_role(app, started[started.index(ENTRY_POINT) + 1 :])


def parse_role(app: typer.Typer, arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The role that a container's arguments name, and the values of its flags."""
    role, *rest = accept_cloudflared(accept_go_flags(of_container(arguments)))
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    if role not in commands or role not in _ROLES:
        return role, {}
    return role, dict(commands[role].make_context(role, rest, resilient_parsing=True).params)


def _address(role: str, config: Path | None, given: dict[str, Any]) -> HostPort:
    probed = _ROLES[role]
    module, _, name = probed.model.partition(":")
    try:
        model: type[RoleConfig] = getattr(import_module(module), name)
    except ModuleNotFoundError as exc:
        missing_extra(role, exc)
    flags = {flag: given.get(flag) for flag in probed.flags}
    if role == "agent":
        flags |= token_flags(os.environ, given.get("token_file"))
    settings = load(model, role=role, file=config or given.get("config") or probed.file, environment=os.environ, flags=flags)
    address: HostPort | None = getattr(settings, probed.field)
    if address is None:
        raise ConfigError(f"{probed.field} of the {role} is off", hint=f"set {probed.field} to be able to ask it")
    return address


def _ask(role: str, address: HostPort, path: str) -> None:
    loopback = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    connection = http.client.HTTPConnection(loopback.get(address.host, address.host), address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = one_line(answer.read(_ANSWER_LIMIT).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as exc:
        raise PenstockError(
            f"the {role} does not answer at {address}",
            detail=str(exc) or type(exc).__name__,
            hint="it is starting, or is not running",
        ) from exc
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise PenstockError(f"the {role} is {text}")
    say(text)
