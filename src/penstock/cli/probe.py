"""What `penstock health` does: asks a role's admin port whether it is ready, for probes that can only run a program.

Where that port is, is read as the role reads it, so that one that was moved is found. Inside a container the role, too, is
known: the container's first process is it. Engines ask every few seconds, so this starts without what the other commands
need: no Typer, no pydantic, no event loop.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.cli.arguments import ENTRY_POINT, PROXY_CONFIG, accept_published, of_container
from penstock.cli.output import say
from penstock.config import admin
from penstock.config.address import HostPort
from penstock.config.sources import gather
from penstock.errors import ConfigError, PenstockError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

_TIMEOUT: Final = 3.0  # seconds; a role that takes longer is not well
_ANSWER_LIMIT: Final = 4096  # bytes; ours are under 300
FIRST_PROCESS: Final = Path("/proc/1/cmdline")
_NAMES: Final = ", ".join(admin.ADDRESSES)


def main(arguments: Sequence[str]) -> None:
    """Run the command. Raises PenstockError for a role that is not ready."""
    parser = _Parser(allow_abbrev=False, add_help=False)  # help is `health`'s, in the look of every command's
    parser.add_argument("role", nargs="?")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--addr")
    parser.add_argument("--live", action="store_true")
    given = parser.parse_args(arguments)
    role, flags = (given.role, {}) if given.role is not None or given.addr is not None else _of_container()
    if role is not None and role not in admin.ADDRESSES:
        raise ConfigError(f"{role!r} has no admin port", hint=f"one of {_NAMES}")
    address = _parsed("--addr", given.addr) if given.addr is not None else _address(str(role), given.config, flags)
    _ask(role or "role", address, "/healthz" if given.live else "/readyz")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as the other commands do."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, hint="`penstock health --help` shows what it takes")


def _of_container() -> tuple[str, dict[str, str]]:
    """The role that this container runs, and its flags."""
    started = FIRST_PROCESS.read_text(errors="replace").split("\0")[:-1] if FIRST_PROCESS.exists() else []
    if ENTRY_POINT not in started:
        raise ConfigError("which role?", hint=f"penstock health ROLE, one of {_NAMES}")
    role, *rest = accept_published(of_container(started[started.index(ENTRY_POINT) + 1 :]))
    return role, _flags(rest)


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    """Flags with their values; of those without one the next word stands here, which nobody asks for."""
    taken: dict[str, str] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, separator, value = argument.partition("=")
        taken[name] = value if separator else following
    return taken


def _address(role: str, config: Path | None, flags: Mapping[str, str]) -> HostPort:
    field, said = "admin_addr", {}
    if role == "agent":  # as cloudflared has it
        field = "metrics"
        said = {field: flags.get("--metrics") or os.environ.get("TUNNEL_METRICS") or None}
    file = config or (Path(flags["--config"]) if "--config" in flags else PROXY_CONFIG if role == "proxy" else None)
    settings = gather(role, file, os.environ, said)
    if field not in settings:
        return admin.ADDRESSES[role]
    if settings[field] is None:
        raise ConfigError(f"{field} of the {role} is off", hint=f"set {field} to be able to ask it")
    return _parsed(field, settings[field])


def _parsed(named: str, value: object) -> HostPort:
    try:
        return HostPort.of(value)
    except ValueError as exc:
        raise ConfigError(f"{named}: {exc}", hint=f"for example {admin.PROXY}") from None


def _ask(role: str, address: HostPort, path: str) -> None:
    loopback = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    try:
        answer = _get(HostPort(loopback.get(address.host, address.host), address.port), path)
    except OSError as exc:
        raise PenstockError(
            f"the {'control plane' if role == 'control' else role} does not answer at {address}",
            detail=str(exc) or type(exc).__name__,
            hint="it is starting, or is not running, or its admin port is elsewhere: give --config FILE or --addr HOST:PORT",
        ) from exc
    head, _, body = answer.partition("\r\n\r\n")
    protocol, _, status = head.partition(" ")
    text = one_line(body)
    if not protocol.startswith("HTTP/1."):
        raise PenstockError(f"what answers at {address} is not the {role}", hint="another program has that port")
    if not status.startswith("200 "):
        raise PenstockError(f"the {role} is {text}")
    say(text)


def _get(address: HostPort, path: str) -> str:
    """What is answered until the other side closes: `http.client` would be half of what this program costs."""
    deadline = time.monotonic() + _TIMEOUT
    answer = b""
    with socket.create_connection((address.host, address.port), _TIMEOUT) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        while len(answer) < _ANSWER_LIMIT:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = connection.recv(_ANSWER_LIMIT)
            if not chunk:
                break
            answer += chunk
    return answer.decode(errors="replace")
