"""The upstream's side of a request: one HTTP/1.1 connection, one exchange at a time.

An upstream is believed no further than its framing: what cannot be told apart from a cut body is one, and a byte that
nobody asked for ends the connection before it could be taken for the next answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.net.closing import close_gently
from penstock.net.sockets import PLAIN_MOST, BoundedReader, room_of
from penstock.net.transports import StreamTransport, cut
from penstock.net.watch import PauseWatch
from penstock.proxy.bodies import Body, BodyError, make_body
from penstock.proxy.heads import Framing, HeadError, names_websocket, parse_response
from penstock.proxy.repeats import Repeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.proxy.guard import IPAddress, Resolver
    from penstock.proxy.routes import Route
    from penstock.proxy.sides import Answered
    from penstock.tls.contexts import TLSContext

_INFORMATIONAL_MOST: Final = 16  # 100, 103, a few 102: more is a stream of heads that never begins


class PoolKey(NamedTuple):
    """What must be the same for a kept connection to be used again; a reload closes those for which it is not.

    permission and trust stand for themselves: a reload that changes them makes new ones. The TLS name is the route's host.
    """

    route: Route
    address: IPAddress
    permission: Resolver | None
    trust: TLSContext | None


class UpstreamConnection(BoundedReader):
    """One connection; made on an open, paused transport.

    `on_free(connection, is_reusable)` is called once an exchange, and with False when an idle one ends by itself.
    """

    __slots__ = (
        "_asks_upgrade",
        "_body",
        "_buffer",
        "_exchange",
        "_head_bytes",
        "_headers_most",
        "_informational",
        "_is_answered",
        "_is_head_request",
        "_is_paused",
        "_keeps_alive",
        "_on_free",
        "_parse",
        "_room",
        "_transport",
        "_watch",
        "idle_since",
        "is_kept",
        "key",
        "may_be_kept",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        key: PoolKey,
        on_free: Callable[[UpstreamConnection, bool], None],
        *,
        head_bytes: int,
        headers_most: int,
    ) -> None:
        self.key = key
        self.is_kept = False  # it served a request before
        self.may_be_kept = True  # it was dialled on the terms of now
        self.idle_since = 0.0
        self._transport = transport
        self._room = room_of(asyncio.get_running_loop(), PLAIN_MOST)
        self._on_free: Callable[[UpstreamConnection, bool], None] | None = on_free
        self._head_bytes = head_bytes
        self._headers_most = headers_most
        self._parse = Repeat(parse_response)
        self._exchange: Answered | None = None
        self._buffer: bytes = b""
        self._body: Body | None = None
        self._informational = 0
        self._asks_upgrade = False
        self._is_answered = False
        self._is_head_request = False
        self._is_paused = False
        self._keeps_alive = False
        self._watch: PauseWatch | None = None
        transport.set_protocol(self)
        transport.resume_reading()

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent on it."""
        return not self._transport.is_closing()

    def start(self, exchange: Answered, request: bytes, *, is_head_request: bool, asks_upgrade: bool = False) -> None:
        """Send a request's head, and what there is of its body, for `exchange`."""
        self._exchange = exchange
        self._asks_upgrade = asks_upgrade
        self._is_head_request = is_head_request
        self._is_answered = False
        self._informational = 0
        self._transport.write(request)

    def write(self, data: bytes) -> None:
        """More of the request's body, framed."""
        self._transport.write(data)

    def pause_reading(self) -> None:
        """The caller reads slower than the upstream writes."""
        if self._is_paused:
            return
        self._is_paused = True
        self._transport.pause_reading()
        if not isinstance(self._transport, StreamTransport):  # those watch by themselves
            if self._watch is None:
                # A reset is seen through the pause; a clean end may wait for as long as its reader takes.
                self._watch = PauseWatch(self._transport, self.connection_lost, fin_patience=float("inf"))
            self._watch.arm()

    def resume_reading(self) -> None:
        """It has caught up."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Cut at once, overtaking what is queued: for the upstream this is the cancellation."""
        self._exchange = None
        self._free(is_reusable=False)
        cut(self._transport)

    def close(self) -> None:
        """Deliver what was written, then end: the caller of a WebSocket ended in order."""
        self._exchange = None
        self._free(is_reusable=False)
        close_gently(self._transport)

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """A read."""
        exchange = self._exchange
        if exchange is None:  # nobody asked: smuggling, or an upstream that counts differently
            self.abort()
            return
        try:
            self._receive(exchange, data)
        except (HeadError, BodyError) as exc:
            self._fail(f"malformed HTTP response: {exc}")
        exchange.flush()

    def _take_turns(self) -> None:
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._is_paused and self.is_open:
            self._transport.resume_reading()

    def eof_received(self) -> None:
        """The upstream ended; the transport closes itself after this."""
        exchange = self._exchange
        if exchange is None:
            self._free(is_reusable=False)
            return
        if self._body is None:
            self._fail("EOF before a response")
        else:
            try:
                self._body.end()
            except BodyError as exc:
                self._fail(f"unexpected EOF: {exc}")
            else:
                self._finish(exchange, self._body, is_reusable=False)
        exchange.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        exchange = self._exchange
        if exchange is not None:
            self._fail(f"connection lost: {exc}" if exc is not None else "connection closed before the response's end")
            exchange.flush()
        self._free(is_reusable=False)

    def pause_writing(self) -> None:
        """More is queued than the upstream takes."""
        if self._exchange is not None:
            self._exchange.pause_request()

    def resume_writing(self) -> None:
        """The queue is short again."""
        if self._exchange is not None:
            self._exchange.resume_request()

    # --- the response -----------------------------------------------------------------------------------------------

    def _receive(self, exchange: Answered, data: bytes) -> None:
        self._is_answered = True
        if self._body is None:
            rest = self._receive_head(exchange, data)
            if rest is None or self._body is None:
                return
            data = rest
        body = self._body
        if data:
            payload = body.feed(data)
            if payload:
                exchange.response_data(payload)
        if body.is_over and self._exchange is exchange:
            self._finish(exchange, body, is_reusable=self._keeps_alive and not body.rest)

    def _receive_head(self, exchange: Answered, data: bytes) -> bytes | None:
        """What follows the head, or None when the head is not whole or the exchange has ended over it."""
        seen = max(len(self._buffer) - 3, 0)
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        while True:
            end = data.find(b"\r\n\r\n", seen) + 4
            if end < 4:
                if len(data) > self._head_bytes:
                    raise HeadError(f"more than {self._head_bytes} bytes of headers")
                self._buffer = data
                return None
            if end > self._head_bytes:
                raise HeadError(f"more than {self._head_bytes} bytes of headers")
            head = self._parse(data[:end], headers_most=self._headers_most, is_head_request=self._is_head_request)
            data, seen = data[end:], 0
            if head.status >= 200:
                break
            if head.status == 101:
                if not (self._asks_upgrade and names_websocket(head.fields)):
                    raise HeadError("an upgrade nobody asked for")
                head = head._replace(framing=Framing.CLOSE, keeps_alive=False)  # bytes, until either side ends
                break
            self._informational += 1
            if self._informational > _INFORMATIONAL_MOST:
                raise HeadError("too many 1xx responses")
            exchange.informed(head)
        # An answer to HEAD is where framings are misread most; such a connection is not used again.
        self._keeps_alive = head.keeps_alive and not self._is_head_request
        self._body = make_body(head.framing, head.length, head.trailers)
        exchange.response_started(head)
        return data if self._exchange is exchange else None

    def _finish(self, exchange: Answered, body: Body, *, is_reusable: bool) -> None:
        self._body = None
        self._exchange = None
        self.is_kept = True
        is_sent = exchange.response_ended(body.trailers)
        if is_reusable and is_sent and not self._transport.is_closing():
            self.resume_reading()  # the caller's slowness was the exchange's, not the connection's
            self._free(is_reusable=True)
            return
        self._free(is_reusable=False)
        if is_sent:
            self._transport.close()
        else:
            cut(self._transport)  # the rest of the upload is for nobody

    def _fail(self, reason: str) -> None:
        exchange, self._exchange = self._exchange, None
        self._free(is_reusable=False)
        cut(self._transport)
        if exchange is not None:
            exchange.upstream_failed(reason, is_stale=self.is_kept and not self._is_answered)

    def _free(self, *, is_reusable: bool) -> None:
        on_free = self._on_free
        if on_free is not None:
            if not is_reusable:
                self._on_free = None
                self._watch = None
            on_free(self, is_reusable)
