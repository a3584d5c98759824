"""Joins two transports and moves bytes between them: with back-pressure, without copies, without a task.

One side ending cleanly: all that it sent is delivered to the other, which then ends at once (the wire has no half-close).
One side lost: the other is cut at once, and the cut overtakes what is queued, because a cancellation must.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.net.closing import END_TIMEOUT, STALL_TIMEOUT, close_gently, taken
from penstock.net.layered import LayeredTransport
from penstock.net.sockets import FRAMED_MOST, BoundedReader, room_of
from penstock.net.transports import StreamTransport, cut
from penstock.net.watch import PauseWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.net.meter import Meter

# Of a bare socket, where a FIN is an end in order (a cancellation resets). Long, because a slow reader behind many buffers may
# take nothing from this one for minutes; whether it is there at all is its own side's to see.
_FIN_PATIENCE: Final = 300.0


@dataclass(frozen=True, slots=True)
class RelayResult:
    """How a relay ended: bytes moved each way, and what went wrong if the end was not clean."""

    a_to_b: int
    b_to_a: int
    error: Exception | None


def join(
    a: asyncio.Transport,
    b: asyncio.Transport,
    *,
    to_a: bytes = b"",
    to_b: bytes = b"",
    on_done: Callable[[RelayResult], None] | None = None,
    end_timeout: float = END_TIMEOUT,
    stall_timeout: float = STALL_TIMEOUT,
    fin_patience: float = _FIN_PATIENCE,
    meter: Meter | None = None,
) -> None:
    """Take over two open transports, paused or not, and move bytes both ways until one side ends.

    `to_a` and `to_b` are what was already read for either side. `on_done` is called once, later, when both are gone.
    The end's timeouts are `close_gently`'s; `fin_patience` is for an end behind bytes of which the other side takes nothing
    more. To stop a relay from outside, abort either transport. `meter` counts what is moved either way, and may hold it up.
    """
    end = _End(on_done, end_timeout, stall_timeout, fin_patience)
    side_a, side_b = _side(a, end, meter), _side(b, end, meter)
    end.sides = (side_a, side_b)
    side_a.other, side_b.other = side_b, side_a
    for side in end.sides:
        side.heed()
    a.set_protocol(side_a)
    b.set_protocol(side_b)
    if to_a:
        side_b.data_received(to_a)
    if to_b:
        side_a.data_received(to_b)
    side_a.begin()
    side_b.begin()


def _side(transport: asyncio.Transport, end: _End, meter: Meter | None) -> _Side:
    return _Side(transport, end) if meter is None else _MeteredSide(transport, end, meter)


class _End:
    """What both sides share: how and when the relay is over."""

    __slots__ = ("error", "fin_patience", "lost", "on_done", "sides", "stall_timeout", "timeout")

    def __init__(
        self, on_done: Callable[[RelayResult], None] | None, timeout: float, stall_timeout: float, fin_patience: float
    ) -> None:
        self.fin_patience = fin_patience
        self.on_done = on_done
        self.timeout = timeout
        self.stall_timeout = stall_timeout
        self.sides: tuple[_Side, ...] = ()
        self.error: Exception | None = None
        self.lost = 0

    def side_lost(self) -> None:
        self.lost += 1
        if self.lost < 2:
            return
        (a, b), self.sides = self.sides, ()
        a.other = b.other = None  # no cycle outlives the relay
        on_done, self.on_done = self.on_done, None
        if on_done is not None:
            on_done(RelayResult(a.moved, b.moved, self.error))


class _Side(BoundedReader):
    """The protocol of one of the two; `moved` counts the bytes it received."""

    __slots__ = ("_end", "_ended", "_held", "_lost", "_room", "_transport", "_watch", "moved", "other", "write")

    def __init__(self, transport: asyncio.Transport, end: _End) -> None:
        self._transport = transport
        self._room = room_of(asyncio.get_running_loop(), FRAMED_MOST)
        self._end = end
        self._ended = False  # this peer, or the relay for it, has ended cleanly
        self._lost = False
        self._held = False
        self._watch: PauseWatch | None = None
        self.write = transport.write
        self.other: _Side | None = None
        self.moved = 0

    def heed(self) -> None:
        """A layer over a socket keeps the watch itself."""
        if isinstance(self._transport, LayeredTransport):
            self._transport.heed(self._progress)

    def begin(self) -> None:
        """Both sides know each other."""
        if self._transport.is_closing():
            # It left before it was joined, so nobody may tell.
            gone = ConnectionResetError("one side was gone before it was joined")
            asyncio.get_running_loop().call_soon(self.connection_lost, gone)
        elif not self._held:
            other = self.other
            if other is not None and other.is_full():
                self.hold()
            else:
                self._resume()

    def is_full(self) -> bool:
        """Whether more is queued towards this side than its transport wants."""
        return self._transport.get_write_buffer_size() > self._transport.get_write_buffer_limits()[1]

    def taken(self) -> object:
        """Changes as this peer takes what was written to it."""
        return taken(self._transport)

    # --- this side's transport --------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        other = self.other
        if other is not None:
            self.moved += len(data)
            other.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.hold()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.release()

    def eof_received(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self.other is not None:
            self.other.finish()
        self.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        other = self.other
        if not self._ended and other is not None:
            self._end.error = self._end.error or exc or ConnectionResetError("one side was cut")
            other.abort()
        self._end.side_lost()

    # --- orders from the other side ---------------------------------------------------------------------------------

    def hold(self) -> None:
        """Take no more from this peer: the other one is full."""
        if self._held or self._transport.is_closing():
            return
        self._held = True
        self._pause()

    def _pause(self) -> None:
        self._transport.pause_reading()
        if not isinstance(self._transport, StreamTransport):  # those keep their own watch
            if self._watch is None:
                patience = self._end.fin_patience
                self._watch = PauseWatch(self._transport, self._gone, fin_patience=patience, progress=self._progress)
            self._watch.arm()

    def _take_turns(self) -> None:
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._held:
            self._resume()

    def release(self) -> None:
        """The other one takes again."""
        if self._held:
            self._held = False
            self._resume()

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def finish(self) -> None:
        """Deliver what was written to this side and end it."""
        self._ended = True
        close_gently(
            self._transport,
            timeout=self._end.timeout,
            stall_timeout=self._end.stall_timeout,
            on_closed=self._closed,
        )

    def abort(self) -> None:
        """End this side now; what is queued for it is dropped."""
        if not self._lost:
            self._ended = True
            cut(self._transport)

    def _progress(self) -> object:
        """Changes as the other one takes what this peer sent."""
        return self.other.taken() if self.other is not None else None

    def _gone(self, exc: Exception) -> None:
        cut(self._transport)
        self.connection_lost(exc)

    def _closed(self) -> None:
        self.connection_lost(None)


class _MeteredSide(_Side):
    """A side that waits for its meter, too."""

    __slots__ = ("_meter", "_throttled")

    def __init__(self, transport: asyncio.Transport, end: _End, meter: Meter) -> None:
        super().__init__(transport, end)
        self._meter = meter
        self._throttled = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._meter.moved(len(data), self)

    def throttle(self) -> None:
        """Take no more from this peer: its group has moved too much."""
        if not self._throttled:
            self._throttled = True
            if not self._held and not self._transport.is_closing():
                self._pause()

    def unthrottle(self) -> None:
        """The group may move again."""
        if self._throttled:
            self._throttled = False
            if not self._held:
                self._resume()

    def _resume(self) -> None:
        if not self._throttled:
            super()._resume()
