"""The server's end: one request head, and the decision about it."""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.closing import close_gently
from penstock.net.sockets import bound_unsent
from penstock.net.transports import StreamTransport, cut
from penstock.net.upgrade.head import FIELDS_LIMIT, HEAD_LIMIT, HEAD_TIMEOUT, accept_for, first, only, tokens
from penstock.net.watch import PauseWatch
from penstock.protocol.hosts import InvalidHostError, normalize_host

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from penstock.net.arrivals import Arrivals

_TLS_HANDSHAKE: Final = 0x16  # RFC 8446 5.1: the first byte of a ClientHello
_METHOD_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class UpgradeListener(asyncio.Protocol):
    """Reads one upgrade request on a fresh transport, then calls `on_request`, which decides now or later.

    A TLS hello or garbage gets 400 in clear text, a plain request 426, a head over `head_limit` bytes or of more than
    `FIELDS_LIMIT` fields 431, one not there after `head_timeout` seconds 400. `on_refused(error)` is told, for logs and
    counters. A GET of one of the `plain_paths` need be no upgrade: its request `is_plain` then. `arrivals` holds the
    connection until its head is here.
    """

    __slots__ = (
        "_arrivals",
        "_buffer",
        "_head_limit",
        "_on_refused",
        "_on_request",
        "_plain_paths",
        "_request",
        "_timeout",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        on_request: Callable[[UpgradeRequest], None],
        *,
        on_refused: Callable[[TunnelError], None] | None = None,
        head_limit: int = HEAD_LIMIT,
        head_timeout: float = HEAD_TIMEOUT,
        plain_paths: Container[str] = (),
        arrivals: Arrivals | None = None,
    ) -> None:
        self._on_request = on_request
        self._arrivals = arrivals
        self._plain_paths = plain_paths
        self._on_refused = on_refused
        self._head_limit = head_limit
        self._timeout = head_timeout
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._request: UpgradeRequest | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # pyright: ignore[reportAttributeAccessIssue]  # asyncio's own signature is the wider one
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._timed_out)
        if self._arrivals is not None and self._transport is not None:
            self._arrivals.enter(self._transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or self._timer is None:
            return
        seen = max(0, len(self._buffer) - 3)
        self._buffer += data
        try:
            end = self._find_end(seen)
            if end is None:
                return
            request = _read_request(bytes(self._buffer[:end]), bytes(self._buffer[end:]), transport, self._plain_paths)
        except TunnelError as error:
            self._refuse(error)
            return
        self._stop()
        self._request = request
        transport.pause_reading()
        if not isinstance(transport, StreamTransport):  # those keep their own watch
            PauseWatch(transport, self._gone_while_paused).arm()
        self._on_request(request)

    def _find_end(self, seen: int) -> int | None:
        buffer = self._buffer
        if buffer[0] == _TLS_HANDSHAKE:
            raise _bad("this port takes a WebSocket upgrade in clear text, and TLS inside it")
        if buffer[0] not in _METHOD_BYTES:
            raise _bad("this is no HTTP request")
        end = buffer.find(b"\r\n\r\n", seen)
        if end < 0 and len(buffer) <= self._head_limit:
            return None
        if end < 0 or end + 4 > self._head_limit:
            raise TunnelError(TunnelErrorCode.HEAD_TOO_LARGE, f"the request's head is over {self._head_limit} bytes")
        return end + 4

    def _timed_out(self) -> None:
        self._refuse(_bad("the request's head did not arrive in time"))

    def _refuse(self, error: TunnelError) -> None:
        self._stop()
        transport, self._transport = self._transport, None
        if self._on_refused is not None:
            self._on_refused(error)
        if transport is not None:
            _answer(transport, error)

    def _stop(self) -> None:
        self._buffer = bytearray()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._arrivals is not None and self._transport is not None:
            self._arrivals.leave(self._transport)

    def _gone_while_paused(self, exc: Exception) -> None:
        if self._transport is not None and self._transport.get_protocol() is self:
            cut(self._transport)
            self.connection_lost(exc)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone before the decision
        self._stop()
        self._transport = None
        request, self._request = self._request, None
        if request is not None:
            request.peer_gone()


@dataclass(slots=True, eq=False)
class UpgradeRequest:
    """A well-formed upgrade request that waits for a decision; reading is paused meanwhile.

    host: normalized (`protocol.hosts`). raw_host: as sent. path: the request target, in origin form. headers: all of them,
    names in lower case. on_gone: set it to learn that the peer left before the decision. is_plain: a GET that asks for no
    WebSocket, to be answered with `stream` or refused.
    """

    host: str
    raw_host: bytes
    path: str
    headers: list[tuple[bytes, bytes]] = field(repr=False)  # they may carry credentials
    transport: asyncio.Transport = field(repr=False)
    key: bytes = field(repr=False)
    early: bytes = field(repr=False)
    on_gone: Callable[[], None] | None = field(default=None, repr=False)
    is_decided: bool = False
    is_plain: bool = False

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return first(self.headers, name)

    def accept(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """Send 101 and let go of the transport: set its next protocol, feed it the returned early bytes, resume reading.

        `headers` go along (their Connection and Upgrade are replaced). Sec-WebSocket-Accept is computed here unless they
        have it: what an upstream answered is relayed. If the peer has left, nothing is sent and the transport is closing.
        """
        self._decide()
        own = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]
        theirs = [(name, value) for name, value in headers if name.lower() not in {b"connection", b"upgrade"}]
        if not any(name.lower() == b"sec-websocket-accept" for name, _ in theirs):
            own.append((b"Sec-WebSocket-Accept", accept_for(self.key)))
        if not self.transport.is_closing():
            bound_unsent(self.transport)
            self.transport.write(_head(HTTPStatus.SWITCHING_PROTOCOLS, [*own, *theirs]))
        return self.early

    def stream(self, content_type: str) -> None:
        """Answer a plain request with a body that lasts until the connection ends, and let go of the transport as above."""
        self._decide()
        fields = [
            (b"Content-Type", content_type.encode("ascii")),
            (b"Cache-Control", b"no-store"),
            (b"Connection", b"close"),
        ]
        if not self.transport.is_closing():
            self.transport.write(_head(HTTPStatus.OK, fields))

    def refuse(self, error: TunnelError, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Answer with the error's status, its code as `Penstock-Error` and its public text, and end."""
        self._decide()
        _answer(self.transport, error, headers)

    def peer_gone(self) -> None:
        """The listener calls this when the transport is lost before the decision."""
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None and not self.is_decided:
            on_gone()

    def _decide(self) -> None:
        if self.is_decided:
            msg = "the upgrade was decided before"
            raise RuntimeError(msg)
        self.is_decided = True
        self.on_gone = None


def _read_request(head: bytes, early: bytes, transport: asyncio.Transport, plain_paths: Container[str] = ()) -> UpgradeRequest:
    if head.count(b"\r\n") - 2 > FIELDS_LIMIT:  # the request line, and the empty one
        raise TunnelError(TunnelErrorCode.HEAD_TOO_LARGE, f"the request's head has more than {FIELDS_LIMIT} fields")
    if head.count(b"\n") != head.count(b"\r\n"):
        raise _bad("lines end in CRLF")  # h11 takes a bare LF; a relay behind us may read it otherwise
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    try:
        parser.receive_data(head)
        request = parser.next_event()
    except h11.RemoteProtocolError as exc:
        raise _bad("the request's head is malformed", detail=str(exc)) from exc
    if not isinstance(request, h11.Request):
        raise _bad("the request's head is malformed")
    headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    is_plain = _is_plain(request, headers, plain_paths)
    key = b"" if is_plain else _require_upgrade(request, headers)
    if any(name in {b"content-length", b"transfer-encoding"} for name, _ in headers):
        raise _bad("an upgrade request has no body")
    if not request.target.startswith(b"/"):
        raise _bad("the request target is in origin form")
    raw_host = only(headers, b"host") or b""
    try:
        host = normalize_host(raw_host.decode("ascii"))
    except (InvalidHostError, UnicodeDecodeError) as exc:
        raise _bad("Host is the tunnel's host name", detail=str(exc)) from exc
    return UpgradeRequest(host, raw_host, request.target.decode("ascii"), headers, transport, key, early, is_plain=is_plain)


def _is_plain(request: h11.Request, headers: list[tuple[bytes, bytes]], paths: Container[str]) -> bool:
    asks_for_more = b"websocket" in tokens(headers, b"upgrade")
    return request.method == b"GET" and request.target.decode("ascii") in paths and not asks_for_more


def _require_upgrade(request: h11.Request, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The key of an upgrade request. Raises TunnelError for any other."""
    is_upgrade = b"websocket" in tokens(headers, b"upgrade") and b"upgrade" in tokens(headers, b"connection")
    if request.method != b"GET" or request.http_version != b"1.1" or not is_upgrade:
        raise TunnelError(TunnelErrorCode.UPGRADE_REQUIRED, "this port takes WebSocket upgrades only")
    if only(headers, b"sec-websocket-version") != b"13":
        raise TunnelError(TunnelErrorCode.UPGRADE_REQUIRED, "this port takes WebSocket version 13")
    key = only(headers, b"sec-websocket-key")
    if key is None or not _is_key(key):
        raise _bad("Sec-WebSocket-Key is 16 bytes in base64, once")
    return key


def _answer(transport: asyncio.Transport, error: TunnelError, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = error.public.encode() + b"\n"
    fields = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Penstock-Error", error.code.value.encode()),
        (b"Connection", b"close"),
    ]
    if error.code is TunnelErrorCode.UPGRADE_REQUIRED:
        fields[-1] = (b"Connection", b"upgrade, close")
        fields += [(b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13")]
    if error.retry_after is not None:
        fields.append((b"Retry-After", b"%d" % error.retry_after))
    if not transport.is_closing():
        transport.write(_head(HTTPStatus(error.status), [*fields, *headers]) + body)
        close_gently(transport)


def _head(status: HTTPStatus, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())]
    for name, value in headers:
        if any(byte in b"\r\n\0" for byte in name + value):
            msg = "a header holds a line end"
            raise ValueError(msg)
        lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])


def _bad(public: str, *, detail: str | None = None) -> TunnelError:
    return TunnelError(TunnelErrorCode.BAD_REQUEST, public, detail=detail)


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
