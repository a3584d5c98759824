"""Connections that come in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from penstock.config.address import unbindable
from penstock.errors import ConfigError
from penstock.net.announced import ReadsAnnouncement
from penstock.net.sockets import peer_of
from penstock.net.tls import HANDSHAKE_TIMEOUT, start_tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from penstock.net.arrivals import Arrivals
    from penstock.tls.contexts import TLSContext

    ContextSource: TypeAlias = TLSContext | Callable[[], TLSContext]

# Connections the kernel keeps for us while the loop is busy; beyond it callers see a delay, not a refusal.
BACKLOG: Final = 1024


class Listener:
    """A bound address that accepts. Out of descriptors it waits and goes on: the loop takes care of that."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self._addresses = tuple(_place(s.getsockname()) for s in server.sockets)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """What is bound: (address, port) a socket, port 0 resolved; the same after `close`."""
        return self._addresses

    @property
    def port(self) -> int:
        """The first address's port."""
        return self._addresses[0][1]

    def close(self) -> None:
        """Stop accepting; open connections go on."""
        self._server.close()


async def listen_unix(path: Path, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> Listener:
    """Accept on a Unix socket that only this user can open; one that a dead process left behind is taken over.

    Raises ConfigError where it cannot be bound.
    """
    try:
        _make_room(path)
        server = await asyncio.get_running_loop().create_unix_server(protocol_factory, str(path), backlog=BACKLOG)
    except OSError as exc:  # a path over 107 bytes is one, too
        reason = exc.strerror or str(exc)
        raise ConfigError(f"cannot listen on {path}: {reason}", hint="check the folder; a socket's path has 107 bytes") from exc
    return Listener(server)


async def listen_tcp(
    host: str,
    port: int,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    *,
    backlog: int = BACKLOG,
    is_shared: bool = False,
) -> Listener:
    """Accept on `host` ("" is every address) and `port` (0 is any free one).

    `is_shared`: other processes of this user may listen there too, and the kernel deals connections out.

    Raises ConfigError, with a hint, where the address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(protocol_factory, host or None, port, backlog=backlog, reuse_port=is_shared or None)
    except OSError as exc:
        raise unbindable(f"{host}:{port}", exc) from exc
    return Listener(server)


async def check_bindable(host: str, port: int, *, is_shared: bool = False) -> None:
    """As `listen_tcp` would fail, for who must know before something that cannot be undone."""
    (await listen_tcp(host, port, asyncio.Protocol, is_shared=is_shared)).close()


async def listen_tls(
    host: str,
    port: int,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    *,
    context: ContextSource,
    backlog: int = BACKLOG,
    is_shared: bool = False,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    check_peer: Callable[[ssl.SSLObject], None] | None = None,
    on_failed: Callable[[Exception, asyncio.Transport], None] | None = None,
    has_room: Callable[[], bool] | None = None,
    is_announced: Callable[[str], bool] | None = None,
    arrivals: Arrivals | None = None,
) -> Listener:
    """As `listen_tcp`; a connection's protocol is made and connected after its TLS handshake.

    `context` is asked for each connection if it can be called, which is how a certificate is replaced. `on_failed` gets
    what ended a handshake, and the connection, which is closed after it returns. Where `has_room` says no, the connection
    is ended before its handshake. Where `is_announced` says yes to the address that dialled, a PROXY protocol header comes
    first, and `peername` is what it says. `arrivals` holds the connection until its handshake is over.
    """

    def accept() -> asyncio.Protocol:
        if has_room is not None and not has_room():
            return _TurnedAway()
        session = context() if callable(context) else context
        return _Accepting(protocol_factory, session, handshake_timeout, check_peer, on_failed, is_announced, arrivals)

    return await listen_tcp(host, port, accept, backlog=backlog, is_shared=is_shared)


def _make_room(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)  # the folder is what keeps others out: a socket's own mode is set too late
    path.unlink(missing_ok=True)


def _place(name: str | bytes | tuple[str, int]) -> tuple[str, int]:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else (str(name), 0)


class _Accepting(asyncio.Protocol):
    """A fresh socket's protocol, until the TLS session takes over: at once, or behind what a balancer says of it."""

    def __init__(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        context: TLSContext,
        handshake_timeout: float,
        check_peer: Callable[[ssl.SSLObject], None] | None,
        on_failed: Callable[[Exception, asyncio.Transport], None] | None,
        is_announced: Callable[[str], bool] | None,
        arrivals: Arrivals | None,
    ) -> None:
        self._protocol_factory = protocol_factory
        self._context = context
        self._handshake_timeout = handshake_timeout
        self._check_peer = check_peer
        self._on_failed = on_failed
        self._is_announced = is_announced
        self._arrivals = arrivals

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        lower = cast("asyncio.Transport", transport)  # what a stream server gives; uvloop's do not inherit from asyncio's
        if self._arrivals is not None:
            self._arrivals.enter(lower)
        peer = peer_of(lower)
        if self._is_announced is not None and peer and self._is_announced(peer[0]):
            reading = ReadsAnnouncement(
                lower,
                timeout=self._handshake_timeout,
                on_read=lambda source, rest: self._start(lower, source, rest),
                on_failed=lambda exc: self._failed(lower, exc),
            )
            lower.set_protocol(reading)
        else:
            self._start(lower, None, b"")

    def _start(self, lower: asyncio.Transport, source: tuple[str, int] | None, initial: bytes) -> None:
        start_tls(
            lower,
            _Late(self._protocol_factory, lower, self._arrivals),
            self._context,
            server_side=True,
            handshake_timeout=self._handshake_timeout,
            check_peer=self._check_peer,
            on_failed=lambda exc: self._failed(lower, exc),
            initial=initial,
            peername=source,
        )

    def _failed(self, lower: asyncio.Transport, exc: Exception) -> None:
        if self._arrivals is not None:
            self._arrivals.leave(lower)
        if self._on_failed is not None:
            self._on_failed(exc, lower)


class _TurnedAway(asyncio.Protocol):
    """Ends a connection that there is no room for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Late(asyncio.Protocol):
    """Makes the real protocol when there is a connection for it, so that failed handshakes cost none."""

    __slots__ = ("_arrivals", "_factory", "_lower")

    def __init__(
        self, factory: Callable[[], asyncio.BaseProtocol], lower: asyncio.Transport, arrivals: Arrivals | None
    ) -> None:
        self._factory = factory
        self._lower = lower
        self._arrivals = arrivals

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._arrivals is not None:
            self._arrivals.leave(self._lower)
        protocol = self._factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
