"""The caller's side: HTTP/1.1 on one stream, one request at a time, the next one unread until this one is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.transports import cut
from penstock.proxy.bodies import Body, BodyError, CloseBody, make_body
from penstock.proxy.deadline import Deadline
from penstock.proxy.download import Download
from penstock.proxy.exchange import Exchange
from penstock.proxy.headers import upstream_request
from penstock.proxy.heads import RequestHead, ResponseHead, check_beginning, parse_request
from penstock.proxy.repeats import Repeat
from penstock.proxy.routes import StreamNames, normalize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.proxy.heads import Header
    from penstock.proxy.service import Service
    from penstock.tls.names import CallerIdentity

# RFC 6455 7.4.1. The first is a clean end, after which a caller may send elsewhere what it got no answer to; the second is
# not, so half a response cannot be taken for a whole one.
_GOING_AWAY: Final = 1001
_FAILED: Final = 1011


def _always() -> bool:
    return True


class Pipeline(asyncio.Protocol):
    """One stream's requests.

    upgrade: the Host of the upgrade that opened the stream, normalized. leave: ends the stream with a WebSocket Close of
    that code and reason, behind what was written. on_lost: called once, with this pipeline, when the stream is gone.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_deadline",
        "_download",
        "_exchange",
        "_is_begun",
        "_is_choked",
        "_is_ending",
        "_is_paused",
        "_is_queued",
        "_is_upgraded",
        "_leave_with",
        "_names",
        "_on_lost",
        "_parse",
        "_received",
        "_requests",
        "_rewrite",
        "_seen",
        "_service",
        "_transport",
        "identity",
        "is_admitted",
        "number",
    )

    def __init__(
        self,
        service: Service,
        *,
        upgrade: str,
        number: int,
        leave: Callable[[int, str], None],
        on_lost: Callable[[Pipeline], None],
    ) -> None:
        self.number = number
        self.identity: CallerIdentity | None = None
        self.is_admitted: Callable[[], bool] = _always
        """Whether the caller may begin another request: its certificate runs out, and the settings change."""
        self._service = service
        self._names = StreamNames(upgrade)
        self._parse = Repeat(parse_request)
        self._rewrite = Repeat(upstream_request)
        self._leave_with: Callable[[int, str], None] | None = leave
        self._on_lost: Callable[[Pipeline], None] | None = on_lost
        self._transport: asyncio.Transport | None = None
        self._deadline = Deadline(service.loop, self._too_late)
        self._requests = 0
        self._buffer = b""  # an unfinished head, or what came after a request that is not over
        self._seen = 0  # so many of its bytes are no whole head
        self._exchange: Exchange | None = None
        self._body: Body | None = None
        self._received = 0
        self._download = Download()
        self._is_begun = False  # of the next head something has come
        self._is_choked = False  # the caller reads slower than we write
        self._is_paused = False
        self._is_queued = False  # the next request waits for its turn of the loop, or for the caller to read
        self._is_upgraded = False  # bytes pass as they are, both ways, until either side ends
        self._is_ending = False  # nothing that still arrives counts

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return self._exchange is not None

    def drain(self) -> None:
        """Start no further request: an idle stream goes away at once, a busy one after its answer, or at its next event."""
        if self._exchange is not None:
            self._exchange.drain()
        elif not self._is_ending:
            self._leave()

    def abort(self) -> None:
        """Cut the stream."""
        self._is_ending = True
        if self._transport is not None:
            cut(self._transport)

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Inner TLS is up."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what TLS gives
        self._transport = transport
        name: str | None = transport.get_extra_info("server_name")
        self._names.server_name = (normalize(name) or name) if name else None
        self._deadline.set(self._service.limits.idle_timeout)
        if self._service.is_draining:
            self._leave()

    def data_received(self, data: bytes) -> None:
        """A read."""
        if self._is_ending:
            return
        if self._body is not None and not self._body.is_over:
            self._receive_body(data)
            self.update_reading()
            self._expect_more()
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._exchange is not None or self._is_queued:
            self.update_reading()
        else:
            self._advance()

    def eof_received(self) -> None:
        """The caller ended cleanly; the transport closes itself after this."""
        self._caller_lost(is_clean=True)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended is the transport's to log
        """The stream is gone."""
        self._caller_lost(is_clean=False)
        self._deadline.close()
        self._transport = None
        self._leave_with = None
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(self)

    def pause_writing(self) -> None:
        """More is queued than the caller takes."""
        self._is_choked = True
        if self._exchange is not None:
            self._exchange.pause_response()

    def resume_writing(self) -> None:
        """The queue is short again."""
        self._is_choked = False
        if self._exchange is not None:
            self._exchange.resume_response()
        elif self._is_queued:
            self._service.loop.call_soon(self._advance)

    # --- the request ------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begin the next request when its head is whole, and its caller reads what it was answered."""
        self._is_queued = self._is_choked and bool(self._buffer)
        if self._buffer and not (self._is_queued or self._is_ending or self._exchange is not None):
            try:
                head = self._next_head()
            except TunnelError as exc:
                self._refuse_head(exc)
                return
            if head is not None and self.is_admitted():
                self._begin(head)
            elif head is not None:
                self._service.log.info("caller no longer admitted", stream=self.number, caller=self._caller_id())
                self._leave()
        self.update_reading()

    def _caller_id(self) -> str | None:
        return self.identity.caller_id if self.identity is not None else None

    def _refuse_head(self, error: TunnelError) -> None:
        """Where one request ends and the next begins is not known any more: this is the stream's last answer."""
        self._service.log.warning(
            "request refused", stream=self.number, code=error.code.value, error=error.detail or error.public
        )
        self._service.metrics.refusals.labels(error.code.value).inc()
        self._download.begin_unread()
        self._answer(error, closes=True)

    def _next_head(self) -> RequestHead | None:
        limits = self._service.limits
        end = self._buffer.find(b"\r\n\r\n", max(self._seen - 3, 0)) + 4
        if (end if end >= 4 else len(self._buffer)) > limits.head_bytes:
            raise TunnelError(TunnelErrorCode.HEAD_TOO_LARGE, f"the request's head is larger than {limits.head_bytes} bytes")
        if end < 4:
            check_beginning(self._buffer, self._seen)
            self._seen = len(self._buffer)
            if not self._is_begun:  # one deadline a head, however slowly it drips
                self._is_begun = True
                self._deadline.set(limits.head_timeout)
            return None
        head = self._parse(self._buffer[:end], headers_most=limits.headers)
        self._buffer = self._buffer[end:]
        self._seen = 0
        return head

    def _begin(self, head: RequestHead) -> None:
        self._deadline.clear()
        self._is_begun = False
        self._requests += 1
        self._received = 0
        self._download.begin(head)
        to = self._names.route(head.host, self._service.routes)
        request = b""
        if not isinstance(to, TunnelError):
            request = self._rewrite(head, to.host_header, strips_token=to.strips_token)
        exchange = Exchange(self._service, self, head, to, request, f"{self.number}.{self._requests}")
        self._exchange = exchange
        self._body = make_body(head.framing, head.length, head.trailers)
        if self._service.limits.body_bytes and head.length > self._service.limits.body_bytes:
            exchange.refuse(self._too_large())
            return
        rest, self._buffer = self._buffer, b""
        if self._body.is_over:
            self._buffer = rest
            exchange.request_ended()
        elif rest:
            self._receive_body(rest)
        exchange.start(head)
        if not exchange.is_over:
            self._expect_more()

    def _receive_body(self, data: bytes) -> None:
        exchange, body = self._exchange, self._body
        if exchange is None or body is None:
            return
        try:
            payload = body.feed(data)
        except BodyError as exc:
            exchange.refuse(TunnelError(TunnelErrorCode.BAD_REQUEST, "the request's body is malformed", detail=str(exc)))
            return
        self._received += len(payload)
        limit = self._service.limits.body_bytes
        if limit and self._received > limit and not self._is_upgraded:
            exchange.refuse(self._too_large())
            return
        if payload:
            exchange.request_data(payload)
        if body.is_over:
            self._buffer = body.rest
            self._deadline.clear()
            exchange.request_ended(body.trailers)

    def _expect_more(self) -> None:
        """A body that stops coming while the upstream waits for it is as dead as a head that does."""
        if self._body is not None and not (self._body.is_over or self._is_paused or self._is_upgraded):
            self._deadline.set(self._service.limits.body_timeout)

    def _too_large(self) -> TunnelError:
        return TunnelError(
            TunnelErrorCode.TOO_LARGE, f"the request's body is larger than {self._service.limits.body_bytes} bytes"
        )

    def _too_late(self) -> None:
        exchange = self._exchange
        if exchange is None:
            self._leave()  # idle, or a head that never ends: there is nobody to answer
        elif self._body is not None and not self._body.is_over:
            exchange.refuse(TunnelError(TunnelErrorCode.BAD_REQUEST, "the request's body did not come in time"))
        else:
            exchange.timed_out()

    def _caller_lost(self, *, is_clean: bool) -> None:
        self._is_ending = True
        self._buffer = b""
        self._download.clear()
        exchange, self._exchange = self._exchange, None
        self._body = None
        if exchange is not None:
            exchange.caller_lost(is_clean=is_clean)

    # --- sides.Caller --------------------------------------------------------------------------------------------

    def update_reading(self) -> None:
        """Read on unless the upstream, the pool or a request that waits its turn says no."""
        exchange = self._exchange
        is_paused = (exchange is not None and exchange.holds_request) or (
            bool(self._buffer) and (exchange is not None or self._is_queued)
        )
        if is_paused == self._is_paused or self._transport is None:
            return
        self._is_paused = is_paused
        if is_paused:
            self._deadline.clear()  # it is not the caller who is slow
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            self._expect_more()

    def request_passed(self) -> None:
        """As `sides.Caller`."""
        if self._service.limits.first_byte_timeout:
            self._deadline.set(self._service.limits.first_byte_timeout)

    def inform(self, head: ResponseHead) -> None:
        """As `sides.Caller`."""
        self._download.inform(head)

    def respond(self, head: ResponseHead) -> None:
        """As `sides.Caller`."""
        if head.status == 101:
            self._switch(head)
            return
        if self._body is None or self._body.is_over:
            self._deadline.clear()
        else:
            self._download.keeps_alive = False  # answered before it was asked in full: the rest is not waited for
        if self._service.is_draining:
            self._download.keeps_alive = False
        self._download.respond(head)

    def _switch(self, head: ResponseHead) -> None:
        self._deadline.clear()
        self._is_upgraded = True
        self._download.switch(head)
        self._body = CloseBody()
        rest, self._buffer = self._buffer, b""  # a caller should wait for the 101, but may not have
        if rest:
            self._receive_body(rest)
        self.update_reading()

    def respond_data(self, data: bytes) -> None:
        """As `sides.Caller`."""
        self._download.data(data)

    def respond_end(self, trailers: Sequence[Header] = ()) -> None:
        """As `sides.Caller`."""
        self._download.end(trailers)
        self.flush()
        self._next(closes=not self._download.keeps_alive)

    def refuse(self, error: TunnelError) -> None:
        """As `sides.Caller`."""
        self._answer(error, closes=not self._download.keeps_alive or self._body is None or not self._body.is_over)

    def cut(self) -> None:
        """As `sides.Caller`."""
        self._exchange = None
        self._body = None
        self.flush()  # what did come is the caller's; that more was to come it learns from the Close's code
        self._leave(_FAILED, "the response was cut short")

    def flush(self) -> None:
        """As `sides.Caller`."""
        self._download.flush(self._transport)

    # --- the end of a request ---------------------------------------------------------------------------------------

    def _answer(self, error: TunnelError, *, closes: bool) -> None:
        closes = closes or self._service.is_draining
        self._download.refuse(error, closes=closes)
        self.flush()
        self._next(closes=closes)

    def _next(self, *, closes: bool) -> None:
        """The exchange is over; what is on the stream is a whole answer."""
        self._exchange = None
        self._body = None
        if closes or self._service.is_draining:
            self._deadline.clear()
            # A clean end, in a stop as well: a Close that goes away ends inner TLS without its close_notify, and a caller that
            # has not read its answer yet would lose it.
            self._is_ending = True
            if self._transport is not None:
                self._transport.close()
        else:
            self._deadline.set(self._service.limits.idle_timeout)
            if self._buffer:
                self._is_queued = True
                self._service.loop.call_soon(self._advance)  # later: a read full of refused requests must not recurse
            self.update_reading()

    def _leave(self, code: int = _GOING_AWAY, reason: str = "going away") -> None:
        self._is_ending = True
        self._deadline.clear()
        leave, self._leave_with = self._leave_with, None
        if leave is not None:
            leave(code, reason)
