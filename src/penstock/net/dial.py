"""Connections that go out. What they end in is mapped to our own errors here, once."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Final

from penstock.errors import UnavailableError
from penstock.net.early import EarlyBytes, parked
from penstock.net.sockets import bound_unsent
from penstock.net.tls import TLSTransport, start_tls
from penstock.net.transports import Parked, cut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from penstock.tls.contexts import TLSContext

# A SYN lost twice is sent again after three seconds; ten seconds allow for that and for a slow name server.
TIMEOUT: Final = 10.0


async def dial_tcp(host: str, port: int, *, timeout: float = TIMEOUT) -> asyncio.Transport:
    """An open TCP transport, paused under a `Parked` protocol: set the next protocol, then resume reading.

    Raises UnavailableError where nothing answers, the name is unknown or the time is over.
    """
    loop = asyncio.get_running_loop()
    place = f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout):
            transport, early = await loop.create_connection(EarlyBytes, host, port)
    except TimeoutError as exc:
        raise UnavailableError("no answer in time", detail=f"connect to {place}: timed out after {timeout:g} s") from exc
    except (socket.gaierror, ValueError) as exc:  # ValueError: it cannot be a name, with a label too long or none at all
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UnavailableError(
            "the name is not known", detail=f"look up {host}: {why}", hint="check the host's name and the resolver"
        ) from exc
    except OSError as exc:
        raise UnavailableError(
            "the connection was refused or the network is unreachable",
            detail=f"connect to {place}: {exc.strerror or exc}",
            hint=f"check that something listens on {place}",
        ) from exc
    bound_unsent(transport)
    return parked(transport, early)


async def dial_unix(path: Path, *, timeout: float = TIMEOUT) -> asyncio.Transport:
    """As `dial_tcp`, to a Unix socket. Raises UnavailableError."""
    try:
        async with asyncio.timeout(timeout):
            transport, early = await asyncio.get_running_loop().create_unix_connection(EarlyBytes, str(path))
    except OSError as exc:  # TimeoutError among them
        raise UnavailableError("nothing answers on the socket", detail=f"{path}: {exc.strerror or 'timed out'}") from exc
    return parked(transport, early)


async def dial_tls(
    host: str,
    port: int,
    *,
    context: TLSContext,
    server_hostname: str,
    timeout: float = TIMEOUT,
    check_peer: Callable[[ssl.SSLObject], None] | None = None,
) -> TLSTransport:
    """An open TLS transport over TCP, paused as `dial_tcp`'s. `timeout` is for both handshakes together, in seconds.

    Raises UnavailableError as `dial_tcp` does, and for a peer that leaves or stalls in the handshake; `ssl.SSLError`, or
    what `check_peer` raised, for a peer that is refused or refuses us.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    transport = await dial_tcp(host, port, timeout=timeout)
    return await handshake(
        transport,
        context=context,
        server_hostname=server_hostname,
        timeout=max(0.001, timeout - (loop.time() - start)),
        check_peer=check_peer,
        place=f"{host}:{port}",
    )


async def handshake(
    lower: asyncio.Transport,
    *,
    context: TLSContext,
    server_hostname: str,
    timeout: float = TIMEOUT,
    check_peer: Callable[[ssl.SSLObject], None] | None = None,
    place: str = "the peer",
    on_failed: Callable[[Exception], None] | None = None,
) -> TLSTransport:
    """A client's TLS handshake over any open transport, awaited: the result is paused as `dial_tcp`'s.

    Raises as `dial_tls`. `on_failed` runs before `lower` is closed, as that of `start_tls`. Cancelled: `lower` is cut.
    """
    opening = _Opening(check_peer, on_failed)
    tls = start_tls(
        lower,
        opening,
        context,
        server_side=False,
        server_hostname=server_hostname,
        handshake_timeout=timeout,
        check_peer=opening.check,
        on_failed=opening.failed,
    )
    try:
        await opening.done
        return tls
    except asyncio.CancelledError:
        cut(tls)
        raise
    except OSError as exc:
        if isinstance(exc, ssl.SSLError) or opening.has_refused:
            raise
        public = "no answer in time" if isinstance(exc, TimeoutError) else "the connection ended early"
        raise UnavailableError(public, detail=f"TLS handshake with {place}: {exc}") from exc
    finally:
        del opening, tls  # a failure's traceback holds this frame, and they hold the failure


class _Opening(Parked):
    """Parks the transport and says that it is open, or why it is not."""

    __slots__ = ("_check_peer", "_on_failed", "done", "has_refused")

    def __init__(
        self, check_peer: Callable[[ssl.SSLObject], None] | None, on_failed: Callable[[Exception], None] | None
    ) -> None:
        super().__init__()
        self._check_peer = check_peer
        self._on_failed = on_failed
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.has_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.done.done():
            self.done.set_result(None)

    def check(self, session: ssl.SSLObject) -> None:
        if self._check_peer is None:
            return
        try:
            self._check_peer(session)
        except Exception:
            self.has_refused = True
            raise

    def failed(self, exc: Exception) -> None:
        if self._on_failed is not None:
            self._on_failed(exc)
        if not self.done.done():
            self.done.set_exception(exc)
