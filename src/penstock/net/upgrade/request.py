"""The client's end: one request head, and its answer."""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from penstock.net.closing import close_gently
from penstock.net.transports import cut
from penstock.net.upgrade.head import HEAD_LIMIT, HEAD_TIMEOUT, accept_for, first, only, tokens
from penstock.protocol.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A refusal's text is a line; what is longer is somebody's web page.
BODY_LIMIT: Final = 8_192


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
        return first(self.headers, name)


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
    replaced. Raises TimeoutError, ConnectionError, LocalProtocolError for a host, path or header that HTTP/1.1 cannot carry,
    or RemoteProtocolError for an answer that is none, and the transport is cut then.
    """
    key = next((value for name, value in headers if name.lower() == b"sec-websocket-key"), None)
    key = key if key is not None else base64.b64encode(entropy(16))
    reader = _ResponseReader(transport, key, head_limit, body_limit)
    try:
        try:
            head = reader.request(host, path, headers)
        except (h11.LocalProtocolError, UnicodeEncodeError) as exc:
            raise LocalProtocolError("the upgrade cannot be asked for in HTTP/1.1", detail=str(exc)) from exc
        transport.write(head)
        transport.set_protocol(reader)
        if transport.is_closing():
            raise ConnectionResetError("the connection was gone before the upgrade")
        transport.resume_reading()
        async with asyncio.timeout(timeout):
            response = await reader.response
    except BaseException:
        reader.response.cancel()
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
        return self._parser.send(h11.Request(method="GET", target=path.encode("ascii"), headers=fields)) + (
            self._parser.send(h11.EndOfMessage()) or b""
        )

    def data_received(self, data: bytes) -> None:
        if not self.response.done():
            self._parser.receive_data(data)
            self._read()

    def eof_received(self) -> None:
        if self._head is None:
            self.connection_lost(None)
        elif not self.response.done():
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
            if self._head is not None:
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
            case _:
                pass  # 100, 103: the answer is still to come

    def _accepted(self, event: h11.InformationalResponse) -> None:
        headers = [(bytes(name), bytes(value)) for name, value in event.headers]
        if b"websocket" not in tokens(headers, b"upgrade") or only(headers, b"sec-websocket-accept") != accept_for(self._key):
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
