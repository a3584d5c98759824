"""A stream's life (RFC 9113 5.1) as a table, and what is kept for each stream while it lives and shortly after."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final

from penstock.protocol.http2.windows import ReceiveWindow

_PIECE_LEAST: Final = 4096


class State(Enum):
    """RFC 9113 5.1, without the states of pushed streams."""

    IDLE = auto()
    OPEN = auto()
    HALF_CLOSED_LOCAL = auto()
    HALF_CLOSED_REMOTE = auto()
    CLOSED = auto()


class Step(Enum):
    """What moves a stream from one state to the next."""

    OPENED = auto()
    END_SENT = auto()
    END_RECEIVED = auto()
    RESET = auto()


TRANSITIONS: Final[dict[tuple[State, Step], State]] = {
    (State.IDLE, Step.OPENED): State.OPEN,
    (State.OPEN, Step.END_SENT): State.HALF_CLOSED_LOCAL,
    (State.OPEN, Step.END_RECEIVED): State.HALF_CLOSED_REMOTE,
    (State.OPEN, Step.RESET): State.CLOSED,
    (State.HALF_CLOSED_LOCAL, Step.END_RECEIVED): State.CLOSED,
    (State.HALF_CLOSED_LOCAL, Step.RESET): State.CLOSED,
    (State.HALF_CLOSED_REMOTE, Step.END_SENT): State.CLOSED,
    (State.HALF_CLOSED_REMOTE, Step.RESET): State.CLOSED,
}
"""Every lawful step; what is not here is a violation, and the connection checks for it before it takes the step."""


class Closure(Enum):
    """How a stream ended, which decides what a late frame on it means (RFC 9113 5.1, "closed")."""

    ENDED = auto()
    """Both sides ended it: a late frame is a connection error."""
    RESET_BY_PEER = auto()
    """A late frame is a stream error."""
    RESET_BY_US = auto()
    """Frames were in flight when we reset it: they are ignored, and credited on the connection."""
    REFUSED = auto()
    """The peer's GOAWAY left it out; what still comes is ignored."""


class Stream:
    """One live stream. It refers to no connection: data-path objects form no cycles."""

    __slots__ = (
        "credits",
        "ending",
        "head_received",
        "head_sent",
        "id",
        "offset",
        "out",
        "queued",
        "readable",
        "send_window",
        "start",
        "state",
        "trailers",
        "watched",
        "window",
        "writable",
    )

    def __init__(self, stream_id: int, *, receive_window: int, send_window: int) -> None:
        self.id = stream_id
        self.state = State.IDLE
        self.window = ReceiveWindow(receive_window)
        self.send_window = send_window
        """What we may still send; below zero after the peer lowered its initial window (RFC 9113 6.9.2)."""
        self.start = send_window
        """What `send_window` was at first; moves with the peer's initial window."""
        self.credits = 0
        """How often the peer gave credit: where it stays the same, the peer's reader stands still."""
        self.out: deque[bytes | bytearray] = deque()
        self.offset = 0
        """How much of `out[0]` has gone already."""
        self.queued = 0
        self.watched = -1
        """How short the queue is to be for `Outbox.take_drained` to tell of it."""
        self.ending = False
        """`end_stream` was called; the end follows what is queued."""
        self.trailers: list[tuple[bytes, bytes]] | None = None
        self.head_sent = False
        self.head_received = False
        """A final head; interim (1xx) ones do not count."""
        self.readable = False
        """DATA may come: the state allows it and the head was there. Kept, not computed, for the hot path."""
        self.writable = False
        """DATA may go, likewise: our head went and no end was asked for."""

    def step(self, step: Step) -> None:
        """Take a lawful step."""
        self.state = TRANSITIONS[self.state, step]
        self.readable = self.head_received and self.can_receive
        self.writable = self.head_sent and self.can_send

    @property
    def can_receive(self) -> bool:
        """Whether the peer has not ended its side."""
        return self.state is State.OPEN or self.state is State.HALF_CLOSED_LOCAL

    @property
    def can_send(self) -> bool:
        """Whether our side is open and no end was asked for."""
        return not self.ending and (self.state is State.OPEN or self.state is State.HALF_CLOSED_REMOTE)

    def head_complete(self) -> None:
        """The peer's final head is here."""
        self.head_received = True
        self.readable = self.can_receive

    def head_gone(self) -> None:
        """Our final head is in the outbox."""
        self.head_sent = True
        self.writable = self.can_send

    def end(self) -> None:
        """No more is to be queued."""
        self.ending = True
        self.writable = False

    def put(self, data: bytes) -> None:
        """Queue bytes. Small pieces that wait are put together: an object for each would take many times what is counted."""
        out = self.out
        if (
            not self.queued
            or len(data) >= _PIECE_LEAST
            or len(last := out[-1]) >= _PIECE_LEAST
            or (self.offset and len(out) == 1)
        ):
            out.append(data)
        elif type(last) is bytearray:
            last += data
        else:
            out[-1] = bytearray(last) + data
        self.queued += len(data)

    def take(self, size: int, parts: list[bytes | bytearray | memoryview]) -> None:
        """Move the next `size` queued bytes to `parts`; a long buffer is cut by views, copied only when joined."""
        out, offset = self.out, self.offset
        self.queued -= size
        while size:
            piece = out[0]
            left = len(piece) - offset
            if left <= size:
                parts.append(piece if not offset and type(piece) is bytes else memoryview(piece)[offset:])
                out.popleft()
                offset = 0
                size -= left
            else:
                parts.append(memoryview(piece)[offset : offset + size])
                offset += size
                break
        self.offset = offset

    def drop(self) -> None:
        """Forget what is queued: a reset overtakes it."""
        self.out.clear()
        self.offset = 0
        self.queued = 0
        self.trailers = None


class Forgotten:
    """The last streams that closed, and how. Bounded: the oldest are forgotten for good."""

    __slots__ = ("_closures", "_limit", "horizon")

    def __init__(self, limit: int) -> None:
        self._closures: dict[int, Closure] = {}
        self._limit = limit
        self.horizon = 0
        """The highest stream forgotten for good: of one above it that is not known here, it is known that it never lived."""

    def add(self, stream_id: int, closure: Closure) -> None:
        """Remember how a stream closed."""
        self._closures[stream_id] = closure
        if len(self._closures) > self._limit:
            oldest = next(iter(self._closures))
            del self._closures[oldest]
            self.horizon = max(self.horizon, oldest)

    def get(self, stream_id: int) -> Closure | None:
        """How it closed, if that is still known."""
        return self._closures.get(stream_id)
