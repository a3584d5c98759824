"""The connection: what a program asks for, and what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.protocol.errors import LocalProtocolError, StreamLimitError
from penstock.protocol.http2.frames import (
    PREFACE,
    ErrorCode,
    FrameType,
    frame,
    goaway,
    header_frames,
    window_update,
)
from penstock.protocol.http2.headers import Headers, list_size
from penstock.protocol.http2.inbox import Inbox
from penstock.protocol.http2.ledger import Ledger
from penstock.protocol.http2.settings import DEFAULT_WINDOW, Role, Settings
from penstock.protocol.http2.streams import Closure, Stream
from penstock.protocol.http2.windows import WindowBudget

if TYPE_CHECKING:
    from penstock.protocol.http2.events import Event

_DEFAULTS: Final = Settings()
_CRUMBS: Final = 4096
"""Go credits in steps of this size: so much of a stream is uncredited although all of it was read."""


class Holder(NamedTuple):
    """A stream and what it holds of the peer's connection window."""

    id: int
    held: int
    credits: int
    """How often the peer has credited the stream; the same as before means that nothing moved."""


class Connection:
    """One HTTP/2 connection, sans I/O.

    Feed `receive_data`, send what `data_to_send` returns whenever `has_data_to_send`, and call `begin_interval` every
    few seconds. Methods that name a stream ignore one that has closed meanwhile only where that is a race
    the caller cannot see: `consumed`, `queued`, `reset_stream`; the others raise LocalProtocolError.
    """

    __slots__ = ("_inbox", "_ledger", "_out", "_started", "_streams")

    def __init__(self, role: Role, settings: Settings = _DEFAULTS, *, budget: WindowBudget | None = None) -> None:
        self._ledger = Ledger(role, settings, WindowBudget() if budget is None else budget)
        self._inbox = Inbox(self._ledger)
        self._out = self._ledger.out
        self._streams = self._ledger.streams
        self._started = False

    # --- bytes ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Queue the preface (EDGE), SETTINGS and the connection's window."""
        if self._started:
            raise LocalProtocolError("the connection was started already")
        self._started = True
        role, settings = self._ledger.role, self._ledger.settings
        if role is Role.EDGE:
            self._out.control(PREFACE)
        self._out.control(frame(FrameType.SETTINGS, 0, 0, settings.payload(role)))
        if settings.connection_window > DEFAULT_WINDOW:
            self._out.control(window_update(0, settings.connection_window - DEFAULT_WINDOW))

    def receive_data(self, data: bytes) -> list[Event]:
        """Parse what arrived. RemoteProtocolError ends the connection: its GOAWAY is queued, send it and close."""
        return self._inbox.receive(data)

    def data_to_send(self, limit: int | None = None) -> bytes:
        """Control frames, then queued DATA in fair turns of at most 16 KiB, as far as windows allow.

        With `limit`, DATA stops once its frames are that many bytes (by at most a turn more) and `has_data_to_send` stays
        true: what is handed over can no longer be overtaken by a reset, so a driver takes what its socket takes.
        """
        parts = self._out.flush(limit)
        if self._out.ended:
            for stream in self._out.take_ended():
                if stream.trailers is not None:
                    parts.append(self._head(stream.id, stream.trailers, end_stream=True))
                self._ledger.sent_end(stream)
        return b"".join(parts)

    @property
    def has_data_to_send(self) -> bool:
        """Whether `data_to_send` would return anything now."""
        return self._out.has_data

    # --- streams ----------------------------------------------------------------------------------------------------

    def open_stream(self, headers: Headers, *, end_stream: bool = False) -> int:
        """Open a stream (EDGE) with a request head, `:` names first; its id. StreamLimitError when none can be opened,
        LocalProtocolError for a head that is too large.
        """
        ledger = self._ledger
        if ledger.role is not Role.EDGE:
            raise LocalProtocolError("only the edge opens streams")
        self._check_size(headers)
        if not ledger.can_open:
            raise StreamLimitError("the connection takes no more streams")
        stream = ledger.create(ledger.last_id + 2)
        stream.head_gone()
        self._out.control(self._head(stream.id, headers, end_stream=end_stream))
        if end_stream:
            stream.end()
            ledger.sent_end(stream)
        return stream.id

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool = False) -> None:
        """A response head (AGENT; 1xx heads may come before it), or trailers, which wait behind queued data and end it."""
        stream = self._sendable(stream_id)
        self._check_size(headers)
        if not stream.head_sent:
            if not (headers and headers[0][0] == b":status" and headers[0][1].startswith(b"1")):
                stream.head_gone()
            elif end_stream:
                raise LocalProtocolError("an interim response cannot end a stream")
        elif not end_stream:
            raise LocalProtocolError("trailers end their stream")
        elif stream.queued:
            stream.trailers = headers
            stream.end()
            return
        self._out.control(self._head(stream_id, headers, end_stream=end_stream))
        if end_stream:
            stream.end()
            self._ledger.sent_end(stream)

    def send_data(self, stream_id: int, data: bytes) -> int:
        """Queue bytes; how many wait now. There is no limit here: writers heed what is returned, and `watch`."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.writable:
            raise LocalProtocolError("the stream takes no data", detail=f"stream {stream_id}")
        if data:
            self._out.queue(stream, data)
        return stream.queued

    def end_stream(self, stream_id: int) -> None:
        """END_STREAM, behind what is queued."""
        stream = self._sendable(stream_id)
        if not stream.head_sent:
            raise LocalProtocolError("the head comes before the end")
        stream.end()
        if not stream.queued:
            self._out.end(stream)
            self._ledger.sent_end(stream)

    def reset_stream(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """RST_STREAM at once; what was queued on the stream is dropped, what still arrives on it is ignored."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._ledger.reset(stream, code, Closure.RESET_BY_US)

    def consumed(self, stream_id: int, amount: int) -> None:
        """The reader took `amount` of what DataReceived called flow-controlled; credit goes back when it is worth a frame."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.readable:
            window = stream.window
            window.read += amount
            if window.read >= window.step:
                self._ledger.credit(stream)

    def queued(self, stream_id: int) -> int:
        """Bytes accepted for a stream and not yet handed over; 0 for one that is gone."""
        stream = self._streams.get(stream_id)
        return stream.queued if stream is not None else 0

    def watch(self, stream_id: int, level: int) -> None:
        """Let `take_drained` tell once when no more than `level` bytes of the stream are queued."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.watched = level

    def take_drained(self) -> list[int]:
        """Ids of the streams that were watched for what they have come to since the last call; some may be gone."""
        return self._out.take_drained()

    @property
    def uncredited(self) -> int:
        """Bytes sent that the peer has not credited to the connection yet."""
        return self._out.peak_window - self._out.window

    def holders(self) -> list[Holder]:
        """The streams with more than crumbs of that; what a driver looks at when they hold up the others."""
        return [
            Holder(stream.id, held, stream.credits)
            for stream in self._streams.values()
            if (held := stream.start - stream.send_window) > _CRUMBS
        ]

    # --- the connection ---------------------------------------------------------------------------------------------

    def ping(self, opaque: bytes) -> None:
        """Ask the peer for a sign of life (8 bytes, echoed by PingAcknowledged)."""
        if len(opaque) != 8:
            raise LocalProtocolError("a PING carries 8 bytes")
        self._out.control(frame(FrameType.PING, 0, 0, opaque))

    def begin_interval(self) -> None:
        """Some seconds have passed: what the peer may do for nothing is counted from zero again."""
        self._ledger.allowances.refill()

    def close(self, code: int = ErrorCode.NO_ERROR) -> None:
        """GOAWAY: no new streams from either side; those that live go on."""
        self._ledger.goaway_sent = True
        last_id = self._ledger.last_id if self._ledger.role is Role.AGENT else 0
        self._out.control(goaway(last_id, code))

    def terminate(self) -> None:
        """The lower transport is gone: forget all streams, and return what they hold of the shared budget."""
        self._ledger.terminate()

    @property
    def open_streams(self) -> int:
        """Streams alive."""
        return len(self._streams)

    @property
    def is_closing(self) -> bool:
        """Whether either side said GOAWAY, or the connection failed."""
        return self._ledger.goaway_sent or self._ledger.goaway_received

    @property
    def can_open(self) -> bool:
        """Whether `open_stream` finds room on this connection: for choosing among links."""
        return self._ledger.role is Role.EDGE and self._ledger.can_open

    @property
    def peer_connection_window(self) -> int:
        """How large the peer's connection window has been; 65,535 until it says otherwise."""
        return self._out.peak_window

    # --- inside -----------------------------------------------------------------------------------------------------

    def _sendable(self, stream_id: int) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None or not stream.can_send:
            raise LocalProtocolError("the stream cannot be sent on", detail=f"stream {stream_id}")
        return stream

    def _check_size(self, headers: Headers) -> None:
        # No setting tells the peer's limit of fields. Ours has the same as we do, and would reset the stream.
        if len(headers) > self._ledger.settings.max_header_fields:
            raise LocalProtocolError("the head has too many fields", detail=f"{len(headers)} fields")
        if list_size(headers) > self._ledger.peer.max_header_list:
            raise LocalProtocolError("the head is larger than the peer accepts")

    def _head(self, stream_id: int, headers: Headers, *, end_stream: bool) -> bytes:
        block = self._ledger.codec.encode(headers)
        return header_frames(stream_id, block, end_stream=end_stream, max_size=self._ledger.peer.max_frame_size)
