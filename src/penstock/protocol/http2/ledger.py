"""What both halves of a connection know: the streams alive, how the others closed, the peer's settings, who said GOAWAY."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.http2.events import Event, StreamReset
from penstock.protocol.http2.floods import Allowances
from penstock.protocol.http2.frames import ID_MASK, ErrorCode, rst_stream, window_update
from penstock.protocol.http2.headers import HeaderBlock, HeaderCodec
from penstock.protocol.http2.outbox import Outbox
from penstock.protocol.http2.settings import PeerSettings, Role, Settings
from penstock.protocol.http2.streams import Closure, Forgotten, State, Step, Stream

if TYPE_CHECKING:
    from penstock.protocol.http2.windows import WindowBudget


class Ledger:
    """The state of one connection."""

    __slots__ = (
        "allowances",
        "block",
        "budget",
        "codec",
        "forgotten",
        "goaway_received",
        "goaway_sent",
        "last_id",
        "out",
        "peer",
        "role",
        "settings",
        "settled",
        "streams",
        "uncredited",
    )

    def __init__(self, role: Role, settings: Settings, budget: WindowBudget) -> None:
        self.role = role
        self.settings = settings
        self.budget = budget
        self.peer = PeerSettings()
        self.out = Outbox(settings, self.peer, role)
        self.codec = HeaderCodec(settings)
        self.allowances = Allowances(settings)
        self.streams: dict[int, Stream] = {}
        self.forgotten = Forgotten(settings.max_forgotten)
        self.block: HeaderBlock | None = None
        """The head whose CONTINUATIONs are still to come."""
        self.last_id = -1 if role is Role.EDGE else 0
        """The highest stream opened; only the edge opens any, with odd ids."""
        self.settled = False
        """The peer's first SETTINGS are here."""
        self.goaway_sent = False
        self.goaway_received = False
        self.uncredited = 0
        """Bytes received since the last WINDOW_UPDATE for the connection."""

    # --- streams ----------------------------------------------------------------------------------------------------

    def create(self, stream_id: int) -> Stream:
        """A new stream."""
        self.last_id = stream_id
        stream = Stream(stream_id, receive_window=self.settings.initial_window, send_window=self.out.initial_window())
        stream.step(Step.OPENED)
        self.streams[stream_id] = stream
        return stream

    def close(self, stream: Stream, closure: Closure) -> None:
        """Take a stream out of the table, and remember how it closed."""
        del self.streams[stream.id]
        self._release(stream)
        self.forgotten.add(stream.id, closure)

    def sent_end(self, stream: Stream) -> None:
        """Our END_STREAM is in the outbox."""
        stream.step(Step.END_SENT)
        if stream.state is State.CLOSED:
            self.close(stream, Closure.ENDED)

    def received_end(self, stream: Stream) -> None:
        """The peer's END_STREAM is here."""
        stream.step(Step.END_RECEIVED)
        if stream.state is State.CLOSED:
            self.close(stream, Closure.ENDED)

    def reset(self, stream: Stream, code: int, closure: Closure) -> None:
        """Forget a stream and what it has queued; RST_STREAM when it is we who reset it."""
        stream.step(Step.RESET)
        self.out.drop(stream)
        if closure is Closure.RESET_BY_US:
            self.out.control(rst_stream(stream.id, code))
        self.close(stream, closure)

    def fail(self, stream: Stream, code: ErrorCode, events: list[Event]) -> None:
        """The peer broke a rule of one stream. Counted: making the other side reset is a flood too (CVE-2025-8671)."""
        self.allowances.count_reset()
        self.reset(stream, code, Closure.RESET_BY_US)
        events.append(StreamReset(stream.id, code, by_peer=False))

    def refuse(self, stream_id: int, code: ErrorCode) -> None:
        """Reset a stream that has no entry in the table."""
        self.allowances.count_reset()
        self.out.reply(rst_stream(stream_id, code))
        self.forgotten.add(stream_id, Closure.RESET_BY_US)

    def is_idle(self, stream_id: int) -> bool:
        """Whether no such stream was ever opened (even ids are pushed streams, which we refuse)."""
        return stream_id > self.last_id or stream_id % 2 == 0

    def late(self, stream_id: int) -> None:
        """DATA or HEADERS on a stream that is not alive (RFC 9113 5.1)."""
        if self.is_idle(stream_id):
            raise RemoteProtocolError("a frame is on a stream that was never opened")
        match self.forgotten.get(stream_id):
            case Closure.ENDED:
                raise RemoteProtocolError("a frame is on a stream that has ended", ErrorCode.STREAM_CLOSED)
            case Closure.RESET_BY_PEER:
                self.refuse(stream_id, ErrorCode.STREAM_CLOSED)
            case Closure.RESET_BY_US | Closure.REFUSED:
                pass  # in flight when we reset it; bounded by the window it had
            case None:
                if stream_id > self.forgotten.horizon:  # RFC 9113 5.1.1: ids that were skipped are closed for good
                    raise RemoteProtocolError("a frame is on a stream that was skipped")
                self.allowances.count_empty()

    # --- credit -----------------------------------------------------------------------------------------------------

    def credit(self, stream: Stream) -> None:
        """Enough of a stream was read to be worth a frame."""
        increment = stream.window.renew(self.settings.max_window, self.budget)
        self.out.control(window_update(stream.id, increment))

    def credit_connection(self) -> None:
        """Give back all of the connection's window, read or not: streams bound the memory, and none may starve another.

        Half of the window is never used up unseen, so there is no overflow of the connection's window to detect.
        """
        self.out.control(window_update(0, self.uncredited))
        self.uncredited = 0

    # --- the connection ---------------------------------------------------------------------------------------------

    @property
    def stream_limit(self) -> int:
        """How many streams may live at once, whoever opens them."""
        if self.role is Role.AGENT:
            return self.settings.max_concurrent_streams
        return min(self.peer.max_concurrent_streams, self.settings.max_concurrent_streams)

    @property
    def can_open(self) -> bool:
        """Whether another stream fits (EDGE)."""
        closing = self.goaway_sent or self.goaway_received
        return not closing and len(self.streams) < self.stream_limit and self.last_id + 2 <= ID_MASK

    def settings_changed(self) -> None:
        """The peer's initial window moves that of every stream (RFC 9113 6.9.2)."""
        start = self.out.initial_window()
        for stream in self.streams.values():
            if not self.out.adjust(stream, start - stream.start):
                raise RemoteProtocolError("SETTINGS make a window too large", ErrorCode.FLOW_CONTROL_ERROR)
            stream.start = start
        self.codec.set_peer_table_size(self.peer.header_table_size)

    def terminate(self) -> None:
        """Nothing lives on this connection any more."""
        self.goaway_sent = True
        self.block = None
        self.out.silence()
        for stream in self.streams.values():
            self._release(stream)
        self.streams.clear()

    def _release(self, stream: Stream) -> None:
        """What its window took to grow."""
        self.budget.release(stream.window.size - self.settings.initial_window)
