"""A stream of a link as an asyncio transport."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock.errors import UnavailableError
from penstock.net.transports import OPEN, Parked, StreamTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

Headers = list[tuple[bytes, bytes]]

# RFC 9113 7.
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8


class StreamRefusedError(UnavailableError):
    """The peer did not begin with this stream, so that it may be tried again on another link."""


class StreamLostError(UnavailableError, ConnectionError):
    """The stream ended before its end: reset by the peer (`code`), or its link was lost (`code` is None)."""

    def __init__(self, public: str, *, code: int | None = None) -> None:
        super().__init__(public)
        self.code = code


class Carrier(Protocol):
    """What a stream asks of its link."""

    def stream_write(self, stream: LinkStream, data: bytes) -> int:
        """Queue `data`; the bytes that are queued now."""
        ...

    def stream_watched(self, stream: LinkStream, level: int) -> None:
        """Call `drained` once no more than `level` bytes are queued."""
        ...

    def stream_respond(self, stream: LinkStream, headers: Headers) -> None:
        """Send the response head."""
        ...

    def stream_consumed(self, stream: LinkStream, amount: int) -> None:
        """The reader took `amount` flow-controlled bytes."""
        ...

    def stream_queued(self, stream: LinkStream) -> int:
        """Bytes accepted and not yet on their way."""
        ...

    def stream_held(self, amount: int) -> None:
        """So many bytes more (or fewer) wait for a slow reader or link; told where one has stopped, not for each chunk."""
        ...

    def stream_closed(self, stream: LinkStream) -> None:
        """End it after what is queued, then report the loss."""
        ...

    def stream_aborted(self, stream: LinkStream, code: int) -> None:
        """Reset it at once."""
        ...

    def extra_info(self, name: str, default: Any) -> Any:
        """What the transport below knows."""
        ...


class LinkStream(StreamTransport):
    """One byte pipe inside a link, open and paused (`transports.Parked`) until its owner sets a protocol and resumes.

    What the peer sent and nobody has read yet is never more than the stream's flow-control window: credit is given when
    the protocol took the bytes. What was written and not yet sent makes `pause_writing` at the high-water mark.
    """

    __slots__ = ("_carrier", "_fresh", "_head", "_held", "_high", "_low", "_stuck", "_unread", "headers", "id", "peer_ended")

    def __init__(
        self,
        carrier: Carrier,
        stream_id: int,
        headers: Headers,
        *,
        high_water: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(Parked(), loop)
        self.id = stream_id
        self.headers = headers
        """Of the request, on either end."""
        self.peer_ended = False
        """The peer's end has come, whether or not it was delivered."""
        self._carrier = carrier
        self._head: asyncio.Future[Headers] | None = None
        self._unread = 0  # received, not yet credited
        self._held = 0  # of that, what a reader that has stopped left here
        self._stuck = 0  # what was queued when the writer was stopped
        self._fresh = True  # nothing has been answered: agents may still refuse it as never begun
        self._high = high_water
        self._low = high_water // 4

    # --- the request's two ends -------------------------------------------------------------------------------------

    def respond(self, headers: Headers, body: bytes | None = None) -> None:
        """Agent: send the response head. With a body the answer is whole, and the stream ends behind it."""
        if self._state is not OPEN:
            return
        self._fresh = False
        self._carrier.stream_respond(self, headers)
        if body is not None:
            self.write(body)
            self.close()

    def refuse(self) -> None:
        """Agent: say that the stream was never begun, so that the edge may try another link."""
        if self._state is OPEN and self._fresh:
            self._carrier.stream_aborted(self, REFUSED_STREAM)
            self._lost(None)

    async def response(self) -> Headers:
        """Edge: the response head. Raises StreamRefusedError or StreamLostError; cancelling it resets the stream."""
        try:
            return await self._awaited()
        except asyncio.CancelledError:
            self.abort()
            raise

    def give_up(self, exc: StreamLostError) -> None:
        """Edge: stop waiting for the response head: `response` raises `exc`, and the stream is reset."""
        head = self._awaited()
        if not head.done():
            head.set_exception(exc)
            head.exception()
            self.abort()

    # --- reports of the link ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open for its first owner."""
        self._opened()

    def head_received(self, headers: Headers) -> None:
        """The response head has come."""
        head = self._awaited()
        if not head.done():
            head.set_result(headers)

    def fed(self, data: bytes, flow_controlled: int) -> int:
        """`data` has come; padding counts in `flow_controlled` only. What the peer may have credit for at once."""
        self._feed(data)
        if (not self._paused and not self._inbox) or self._state is not OPEN:
            return flow_controlled
        self._unread += flow_controlled
        self._held += flow_controlled
        self._carrier.stream_held(flow_controlled)
        return 0

    def fed_eof(self) -> None:
        """The peer ended the stream."""
        self.peer_ended = True
        self._feed_eof()

    def drained(self) -> None:
        """The queue is at the low-water mark."""
        if self._choked:
            self._carrier.stream_held(-self._stuck)
            self._stuck = 0
            self._unchoke()

    def lost(self, exc: Exception | None) -> None:
        """Reset, cut, or ended in order (None)."""
        if exc is not None and not self._awaited().done():
            self._awaited().set_exception(exc)
            self._awaited().exception()  # nobody may be waiting any more
        self._holds_nothing()
        self._lost(exc)

    def _holds_nothing(self) -> None:
        if held := self._held + self._stuck:
            self._held = self._stuck = 0
            self._carrier.stream_held(-held)

    def _awaited(self) -> asyncio.Future[Headers]:
        if self._head is None:
            self._head = self._loop.create_future()
        return self._head

    # --- hooks of StreamTransport -----------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._state is not OPEN:
            return
        queued = self._carrier.stream_write(self, data if type(data) is bytes else bytes(data))
        if queued > self._high:
            self._carrier.stream_held(queued - self._stuck)
            self._stuck = queued
            self._carrier.stream_watched(self, self._low)
            self._choke()

    def _below_close(self) -> None:
        self._carrier.stream_closed(self)

    def _below_abort(self) -> None:
        self._holds_nothing()
        self._carrier.stream_aborted(self, CANCEL)

    def _below_pause(self) -> None:
        """Nothing to do: without credit the peer stops by itself."""

    def _below_resume(self) -> None:
        self._give_credit()

    def _taken(self, size: int) -> None:
        """Credit as the reader takes, not for a whole inbox at its end: a slow one would get its window in one burst."""
        if self._state is OPEN and self._held:
            self._unread -= size
            self._held -= size
            self._carrier.stream_consumed(self, size)
            self._carrier.stream_held(-size)

    def _give_credit(self) -> None:
        amount, self._unread = self._unread, 0
        if amount:
            self._carrier.stream_consumed(self, amount)
        if self._held:
            self._carrier.stream_held(-self._held)
            self._held = 0

    # --- asyncio.Transport ------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._carrier.extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high if high is not None else (4 * low if low is not None else self._high)
        self._low = low if low is not None else self._high // 4
        if self._choked:
            self._carrier.stream_watched(self, self._low)

    def get_write_buffer_size(self) -> int:
        return self._carrier.stream_queued(self)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high


def status_of(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """The `:status` of a response head; 0 where there is none."""
    for name, value in headers:
        if name == b":status":
            return int(value) if value.isdigit() and len(value) == 3 else 0
    return 0
