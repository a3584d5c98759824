"""The ports a program needs, looked at before anything starts, so that a busy one is a sentence and not half a start."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import random
import socket
from typing import TYPE_CHECKING, Any, Final, TypeVar

from penstock.config.types import HostPort
from penstock.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_P = TypeVar("_P")
_LOOPBACK_SECONDS: Final = 2.0  # it takes microseconds, or a packet filter swallows it
_POOL: Final = range(20_000, 32_768)  # below what Linux (32768) and macOS (49152) give to whoever names no port
ROLES: Final = {
    "control": "the control plane's API",
    "control_admin": "the control plane's admin port",
    "callers": "the edge's callers",
    "agents": "the edge's agents",
    "edge_admin": "the edge's admin port",
    "agent_metrics": "the agent's metrics",
    "proxy": "the proxy",
    "proxy_admin": "the proxy's admin port",
}
"""What the field of a dataclass of ports is for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """Every address `stack` listens on; all loopback."""

    agent_metrics: HostPort = dataclasses.field(default=HostPort("127.0.0.1", 20241))
    proxy: HostPort = dataclasses.field(default=HostPort("127.0.0.1", 8080))
    proxy_admin: HostPort = dataclasses.field(default=HostPort("127.0.0.1", 8081))


def check_free(ports: object, command: str) -> None:
    """ConfigError for the first port of a dataclass that somebody else has."""
    for name, address in _each(ports):
        try:
            _listen(address).close()
        except OSError as exc:
            reason = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be had: {(exc.strerror or str(exc)).lower()}"
            raise ConfigError(
                f"port {address.port} for {ROLES[name]} {reason}",
                hint=f"stop what has it (another `penstock {command}`?), or add --free-ports"
                + (' (with make: make up ARGS="--free-ports")' if command == "up" else ""),
            ) from exc


def check_loopback() -> None:
    """Whether this machine reaches itself: in a network namespace of its own loopback is down until somebody raises it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            socket.create_connection(listener.getsockname(), _LOOPBACK_SECONDS).close()
        except OSError as exc:
            raise UnavailableError(
                "this machine does not reach itself at 127.0.0.1, where the parts speak to each other",
                detail=str(exc),
                hint="raise loopback: ip link set lo up; a sandbox or `unshare -n` begins without it",
            ) from exc


def choose_free(kind: type[_P]) -> _P:
    """Ports that are free now: all are held at once, so that no two are the same.

    None of them is one that the system hands out by itself: between this look and the start it would give it to somebody.
    """
    candidates = iter(random.sample(_POOL, len(_POOL)))  # two runs begin elsewhere; no secret
    held = {name: _first_free(address.host, candidates) for name, address in _each(kind())}
    try:
        return kind(**{name: HostPort(*listener.getsockname()[:2]) for name, listener in held.items()})
    finally:
        for listener in held.values():
            listener.close()


def _first_free(host: str, candidates: Iterator[int]) -> socket.socket:
    for port in candidates:
        with contextlib.suppress(OSError):
            return _listen(HostPort(host, port))
    return _listen(HostPort(host, 0))


def _each(ports: Any) -> list[tuple[str, HostPort]]:
    return [(field.name, getattr(ports, field.name)) for field in dataclasses.fields(ports)]


def _listen(address: HostPort) -> socket.socket:
    listener = socket.socket()
    try:
        # As asyncio's servers do: connections of the last run that linger in TIME_WAIT are nobody's.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener
