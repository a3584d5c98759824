"""What waits to be sent: control frames first, then DATA in turns, as far as the peer's windows allow.

A stream is in exactly one place: in the ring (bytes queued, window open), parked (bytes queued, window shut) or in neither
(nothing queued). Control frames keep their order, which HPACK needs; a stream's DATA can only follow its HEADERS.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.http2.frames import (
    END_STREAM,
    HEADER,
    HEADER_SIZE,
    ErrorCode,
    FrameType,
    frame,
)
from penstock.protocol.http2.settings import DEFAULT_WINDOW, MAX_WINDOW, PeerSettings, Role, Settings

if TYPE_CHECKING:
    from penstock.protocol.http2.streams import Stream

_UNLIMITED: Final = 2**62
_pack = HEADER.pack


class Outbox:
    """The sending half of a connection."""

    __slots__ = ("_control", "_drained", "_parked", "_peer", "_ring", "_role", "_settings", "ended", "peak_window", "window")

    def __init__(self, settings: Settings, peer: PeerSettings, role: Role) -> None:
        self._settings = settings
        self._role = role
        self._peer = peer
        self._control: list[bytes | bytearray | memoryview] = []
        self._ring: deque[Stream] = deque()
        self._parked: dict[int, Stream] = {}
        self._drained: list[int] = []
        self.ended: list[Stream] = []
        """The streams whose last bytes went out in the last `flush`; their ends or trailers are to follow."""
        self.window = DEFAULT_WINDOW
        """What we may still send on the whole connection."""
        self.peak_window = DEFAULT_WINDOW
        """The largest it has been: how large the peer's connection window is."""

    # --- control frames ---------------------------------------------------------------------------------------------

    def control(self, data: bytes) -> None:
        """Queue a frame of our own initiative."""
        self._control.append(data)

    def reply(self, data: bytes) -> None:
        """Queue a frame the peer made us send. One that floods and does not read would fill our memory (CVE-2019-9512)."""
        if len(self._control) >= self._settings.max_queued_control:
            raise RemoteProtocolError("the peer does not read what it asks for", ErrorCode.ENHANCE_YOUR_CALM)
        self._control.append(data)

    # --- streams ----------------------------------------------------------------------------------------------------

    def initial_window(self) -> int:
        """The send window a stream starts with: the peer's, or less towards an agent whose connection window is small.

        Starting lower than the peer allows keeps the difference unused for good, whatever it credits later. It would stall a
        peer that credits in steps larger than what we start with; stock agents (Go) credit every 4 KiB.
        """
        settings = self._settings
        if self._role is Role.EDGE and self.peak_window < settings.small_connection_window:
            return min(self._peer.initial_window, settings.stream_credit)
        return self._peer.initial_window

    def queue(self, stream: Stream, data: bytes) -> None:
        """Append to the stream's bytes."""
        if stream.queued:
            stream.put(data)
            return
        if stream.send_window > 0:
            self._ring.append(stream)
        else:
            self._parked[stream.id] = stream
        stream.out.append(data)
        stream.queued = len(data)

    def drop(self, stream: Stream) -> None:
        """Forget what the stream has queued."""
        if stream.queued:
            if self._parked.pop(stream.id, None) is None:
                self._ring.remove(stream)
            stream.drop()

    def adjust(self, stream: Stream, delta: int) -> bool:
        """The stream's window moves by `delta`; False when it would pass 2^31-1 (RFC 9113 6.9.1)."""
        before = stream.send_window
        after = before + delta
        if after > MAX_WINDOW:
            return False
        stream.send_window = after
        stream.credits += 1
        if stream.queued and (before > 0) != (after > 0):
            if after > 0:
                del self._parked[stream.id]
                self._ring.append(stream)
            else:
                self._ring.remove(stream)
                self._parked[stream.id] = stream
        return True

    def adjust_connection(self, increment: int) -> bool:
        """As `adjust`, for the connection."""
        self.window += increment
        self.peak_window = max(self.peak_window, self.window)
        return self.window <= MAX_WINDOW

    # --- what the driver takes --------------------------------------------------------------------------------------

    @property
    def has_data(self) -> bool:
        """Whether `flush` would return anything."""
        return bool(self._control) or (bool(self._ring) and self.window > 0)

    def take_drained(self) -> list[int]:
        """The streams whose queue has become as short as it was watched for."""
        if not self._drained:
            return []
        drained, self._drained = self._drained, []
        return drained

    def take_ended(self) -> list[Stream]:
        """Whoever takes `ended` looks after them."""
        ended, self.ended = self.ended, []
        return ended

    def silence(self) -> None:
        """The connection failed: nothing follows the control frames."""
        self._ring.clear()
        self._parked.clear()

    def flush(self, limit: int | None) -> list[bytes | bytearray | memoryview]:
        """Control frames, then DATA: round-robin, at most one turn a stream, until windows, queues or `limit` are used up."""
        parts, self._control = self._control, []
        ring = self._ring
        if not ring:
            return parts
        window = self.window
        room = _UNLIMITED if limit is None else limit
        turn = min(self._settings.turn, self._peer.max_frame_size)
        add = parts.append
        while ring and window > 0 and room > 0:
            stream = ring.popleft()
            size = stream.queued
            is_last = size <= turn and size <= window and size <= stream.send_window
            if not is_last:
                size = min(turn, window, stream.send_window)
            flags = END_STREAM if stream.ending and is_last and stream.trailers is None else 0
            add(_pack(size << 8, flags, stream.id))  # DATA is type 0
            if is_last and len(stream.out) == 1 and not stream.offset:  # one small write, as nearly always
                add(stream.out.popleft())
                stream.queued = 0
            else:
                stream.take(size, parts)
            stream.send_window -= size
            window -= size
            room -= size + HEADER_SIZE
            if stream.queued <= stream.watched:
                stream.watched = -1
                self._drained.append(stream.id)
            if not is_last:
                if stream.send_window > 0:
                    ring.append(stream)
                else:
                    self._parked[stream.id] = stream
            elif stream.ending:
                self.ended.append(stream)
        self.window = window
        return parts

    def end(self, stream: Stream) -> None:
        """END_STREAM on a stream with nothing queued: an empty DATA frame, which no window holds back."""
        self._control.append(frame(FrameType.DATA, END_STREAM, stream.id))
