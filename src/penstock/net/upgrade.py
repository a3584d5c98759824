"""The one HTTP head before a WebSocket, from either end, parsed by h11 under strict limits.

Nothing here is on the data path: a head is read once a stream. After it the transport belongs to somebody else.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.closing import close_gently
from penstock.net.transports import StreamTransport, cut
from penstock.net.watch import PauseWatch
from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.hosts import InvalidHostError, normalize_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# A head of ours is under 1 KiB; cookies and a company's own headers are what the rest is for.
HEAD_LIMIT: Final = 16_384
# One round trip and patience; a slow-loris gets no more than this of a socket.
HEAD_TIMEOUT: Final = 10.0
# A refusal's text is a line; what is longer is somebody's web page.
BODY_LIMIT: Final = 8_192

_TLS_HANDSHAKE: Final = 0x16  # RFC 8446 5.1: the first byte of a ClientHello
_METHOD_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


def accept_for(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


# --- the server's end -------------------------------------------------------------------------------------------------


class UpgradeListener(asyncio.Protocol):
    """Reads one upgrade request on a fresh transport, then calls `on_request`, which decides now or later.

    A TLS hello or garbage gets 400 in clear text, a plain request 426, a head over `head_limit` bytes 431, one not there
    after `head_timeout` seconds 400. `on_refused(error)` is told, for logs and counters.
    """

    __slots__ = (
        "_buffer",
        "_head_limit",
        "_on_refused",
        "_on_request",
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
    ) -> None:
        self._on_request = on_request
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
            request = _read_request(bytes(self._buffer[:end]), bytes(self._buffer[end:]), transport)
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
    names in lower case. on_gone: set it to learn that the peer left before the decision.
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

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return _first(self.headers, name)

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
            self.transport.write(_head(HTTPStatus.SWITCHING_PROTOCOLS, [*own, *theirs]))
        return self.early

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


def _read_request(head: bytes, early: bytes, transport: asyncio.Transport) -> UpgradeRequest:
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
    _require_upgrade(request, headers)
    key = _only(headers, b"sec-websocket-key")
    if key is None or not _is_key(key):
        raise _bad("Sec-WebSocket-Key is 16 bytes in base64, once")
    if any(name in {b"content-length", b"transfer-encoding"} for name, _ in headers):
        raise _bad("an upgrade request has no body")
    if not request.target.startswith(b"/"):
        raise _bad("the request target is in origin form")
    raw_host = _only(headers, b"host") or b""
    try:
        host = normalize_host(raw_host.decode("ascii"))
    except (InvalidHostError, UnicodeDecodeError) as exc:
        raise _bad("Host is the tunnel's host name", detail=str(exc)) from exc
    return UpgradeRequest(host, raw_host, request.target.decode("ascii"), headers, transport, key, early)


def _require_upgrade(request: h11.Request, headers: list[tuple[bytes, bytes]]) -> None:
    is_upgrade = b"websocket" in _tokens(headers, b"upgrade") and b"upgrade" in _tokens(headers, b"connection")
    if request.method != b"GET" or request.http_version != b"1.1" or not is_upgrade:
        raise TunnelError(TunnelErrorCode.UPGRADE_REQUIRED, "this port takes WebSocket upgrades only")
    if _only(headers, b"sec-websocket-version") != b"13":
        raise TunnelError(TunnelErrorCode.UPGRADE_REQUIRED, "this port takes WebSocket version 13")


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


def _first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def _only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    values = [value for key, value in headers if key == name]
    return values[0] if len(values) == 1 else None


def _tokens(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> set[bytes]:
    return {token.strip().lower() for key, value in headers if key == name for token in value.split(b",")}


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


# --- the client's end -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpgradeResponse:
    """What the other end answered.

    headers: names in lower case. rest: what followed a 101's head, for the transport's next protocol. body: the beginning
    of a refusal's text.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    rest: bytes
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return _first(self.headers, name)


async def request_upgrade(
    transport: asyncio.Transport,
    *,
    host: str,
    path: str = "/",
    headers: Sequence[tuple[bytes, bytes]] = (),
    timeout: float = HEAD_TIMEOUT,
    head_limit: int = HEAD_LIMIT,
    body_limit: int = BODY_LIMIT,
    entropy: Callable[[int], bytes] = os.urandom,
) -> UpgradeResponse:
    """Ask for a WebSocket on an open transport.

    After 101 the transport is open and paused, and its next protocol may be set; after any other status it is ended. A
    Sec-WebSocket-Key among `headers` is used as it is, for an agent replays its caller's; their other upgrade headers are
    replaced. Raises TimeoutError, ConnectionError, or RemoteProtocolError for an answer that is none, and the transport is
    cut then.
    """
    key = next((value for name, value in headers if name.lower() == b"sec-websocket-key"), None)
    key = key if key is not None else base64.b64encode(entropy(16))
    reader = _ResponseReader(transport, key, head_limit, body_limit)
    try:
        transport.write(reader.request(host, path, headers))
        transport.set_protocol(reader)
        if transport.is_closing():
            raise ConnectionResetError("the connection was gone before the upgrade")
        transport.resume_reading()
        async with asyncio.timeout(timeout):
            response = await reader.response
    except BaseException:
        cut(transport)
        raise
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        close_gently(transport)
    return response


class _ResponseReader(asyncio.Protocol):
    """Reads the answer to one upgrade request, and holds the transport until its next protocol is set."""

    __slots__ = ("_body", "_body_limit", "_head", "_key", "_parser", "_transport", "response")

    def __init__(self, transport: asyncio.Transport, key: bytes, head_limit: int, body_limit: int) -> None:
        self._transport = transport
        self._key = key
        self._body_limit = body_limit
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=head_limit)
        self._head: h11.Response | None = None
        self._body = bytearray()
        self.response: asyncio.Future[UpgradeResponse] = asyncio.get_running_loop().create_future()

    def request(self, host: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        ours = {b"host", b"connection", b"upgrade", b"sec-websocket-version", b"sec-websocket-key", b"sec-websocket-extensions"}
        fields = [
            (b"Host", host.encode("ascii")),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", self._key),
            *((name, value) for name, value in headers if name.lower() not in ours),
        ]
        return self._parser.send(h11.Request(method="GET", target=path, headers=fields)) + (
            self._parser.send(h11.EndOfMessage()) or b""
        )

    def data_received(self, data: bytes) -> None:
        if not self.response.done():
            self._parser.receive_data(data)
            self._read()

    def eof_received(self) -> None:
        if not self.response.done():
            self._parser.receive_data(b"")
            self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.response.done():
            return
        if self._head is not None:
            self._refused(self._head)
        else:
            self.response.set_exception(exc or ConnectionResetError("the connection ended before the upgrade's answer"))

    def _read(self) -> None:
        try:
            while not self.response.done():
                event = self._parser.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._take(event)
        except h11.RemoteProtocolError as exc:
            if self._parser.their_state is h11.ERROR and self._parser.trailing_data == (b"", True) and self._head is None:
                self.response.set_exception(ConnectionResetError("the connection ended before the upgrade's answer"))
            elif self._head is not None:
                self._refused(self._head)
            else:
                self._broken("the answer to the upgrade is no HTTP", str(exc))

    def _take(self, event: object) -> None:
        match event:
            case h11.InformationalResponse(status_code=101):
                self._accepted(event)
            case h11.Response():
                self._head = event
            case h11.Data():
                self._body += event.data
                if len(self._body) >= self._body_limit and self._head is not None:
                    self._refused(self._head)
            case h11.EndOfMessage() if self._head is not None:
                self._refused(self._head)
            case h11.ConnectionClosed():
                self._broken("the connection ended before the upgrade's answer", None)
            case _:
                pass  # 100, 103: the answer is still to come

    def _accepted(self, event: h11.InformationalResponse) -> None:
        headers = [(bytes(name), bytes(value)) for name, value in event.headers]
        if b"websocket" not in _tokens(headers, b"upgrade") or _only(headers, b"sec-websocket-accept") != accept_for(self._key):
            self._broken("the answer to the upgrade is not for our key", None)
            return
        self._transport.pause_reading()
        rest, _ = self._parser.trailing_data
        self.response.set_result(UpgradeResponse(101, headers, bytes(rest), b""))

    def _refused(self, head: h11.Response) -> None:
        headers = [(bytes(name), bytes(value)) for name, value in head.headers]
        body = bytes(self._body[: self._body_limit])
        self.response.set_result(UpgradeResponse(head.status_code, headers, b"", body))

    def _broken(self, public: str, detail: str | None) -> None:
        self.response.set_exception(RemoteProtocolError(public, detail=detail))
