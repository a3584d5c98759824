"""Drives `protocol.http2` over one transport: reads, coalesced writes, pings, and the ends of streams and of the link."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from penstock.net.link.endings import Endings
from penstock.net.link.limits import LinkLimits, LinkOwner
from penstock.net.link.rounds import Rounds
from penstock.net.link.stream import CANCEL, Headers, LinkStream, StreamLostError, StreamRefusedError, status_of
from penstock.net.link.table import Table
from penstock.net.sockets import bound_unsent
from penstock.net.transports import cut
from penstock.protocol.errors import LocalProtocolError, RemoteProtocolError, StreamLimitError
from penstock.protocol.http2 import (
    Connection,
    DataReceived,
    ErrorCode,
    Event,
    GoawayReceived,
    HeadersReceived,
    PingAcknowledged,
    Role,
    Settings,
    StreamReset,
    WindowBudget,
)

_PING: Final = b"penstock"
_CHUNK: Final = 64 * 1024
"""Handed down at once: what is below can no longer be overtaken by a reset."""


class Link(asyncio.Protocol):
    """The protocol of one transport between an edge and an agent."""

    def __init__(
        self,
        role: Role,
        owner: LinkOwner,
        *,
        settings: Settings | None = None,
        limits: LinkLimits | None = None,
        budget: WindowBudget | None = None,
    ) -> None:
        self._limits = limits or LinkLimits()
        self._role = role
        self._budget = budget or WindowBudget()
        settings = settings or Settings()
        self._http = Connection(role, settings, budget=self._budget)
        self._owner: LinkOwner | None = owner
        self._loop = asyncio.get_running_loop()
        self._lower: asyncio.Transport | None = None
        self._table = Table(self._loop)
        self._streams = self._table.live
        self._endings = Endings(close_timeout=self._limits.close_timeout, linger=self._limits.linger)
        self._blocked = False  # the transport below has had enough
        self._flush_due = False
        self._ended = False
        self._reason: Exception | None = None  # why the peer ended the link, if it said
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None
        self.received = 0
        """Bytes that came on the link, framing included."""
        self.sent = 0
        """Bytes that went, likewise."""
        self._rounds = Rounds(self._limits, settings, self._http, self._endings)
        self._pulse = self._rounds.pulse

    # --- what owners use --------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Streams open now."""
        return len(self._streams)

    @property
    def is_open(self) -> bool:
        """Whether a new stream may be opened."""
        return self._lower is not None and not self._ended and not self._draining and self._http.can_open

    @property
    def is_full(self) -> bool:
        """Whether it would be open if it had not as many streams as there may be."""
        is_up = self._lower is not None and not self._ended and not self._draining and not self._http.is_closing
        return is_up and not self._http.can_open

    @property
    def silence(self) -> float:
        """Seconds that the peer has owed us the answer to a ping, with nothing else heard from it; 0 where it owes none."""
        return self._pulse.silence(self._loop.time())

    def probe(self) -> None:
        """Ask for a sign of life, where there has been none just now: `silence` is told by the answer."""
        if self._lower is not None and self._pulse.is_worth_asking(now := self._loop.time()):
            self._ping(now)
            self._flush_soon()

    @property
    def buffered(self) -> int:
        """Bytes written to streams and not yet taken by the operating system."""
        below = self._lower.get_write_buffer_size() if self._lower is not None else 0
        return below + sum(self._http.queued(stream_id) for stream_id in self._streams)

    def open_stream(self, headers: Headers) -> LinkStream:
        """Edge: send a request head. StreamRefusedError when this link takes no more; LocalProtocolError: too large a head."""
        if not self.is_open:
            raise StreamRefusedError("the link takes no new streams")
        try:
            stream_id = self._http.open_stream(headers)
        except StreamLimitError as exc:
            raise StreamRefusedError("the link takes no more streams", detail=exc.public) from exc
        self._flush_soon()
        return self._add(stream_id, headers)

    def drain(self) -> None:
        """Open no new stream; those that are open go on."""
        self._draining = True

    async def drained(self, *, besides: LinkStream | None = None) -> None:
        """Returns when no stream is open `besides` that one, or the link is gone."""
        while any(stream is not besides for stream in self._streams.values()) and self._lower is not None:
            await self._table.fewer()

    async def gone(self) -> None:
        """Returns when the link is gone."""
        while self._lower is not None:
            await self._table.fewer()

    def close(self) -> None:
        """Say goodbye and end, behind what is queued as far as the transport takes it. Streams that are open are lost."""
        if self._ended or self._lower is None:
            return
        self._ended = True
        self._http.close()
        self._flush()
        self._lower.close()

    def abort(self) -> None:
        """Cut it."""
        self._ended = True
        if self._lower is not None:
            cut(self._lower)

    def extra_info(self, name: str, default: Any = None) -> Any:
        """What the transport below knows."""
        return self._lower.get_extra_info(name, default) if self._lower is not None else default

    # --- the transport's protocol -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast(asyncio.Transport, transport)
        self._rounds.begin(self._loop.time())
        bound_unsent(self._lower)
        self._http.start()
        self._flush_soon()
        self._timer = self._loop.call_later(self._rounds.every, self._tick)
        if self._owner is not None:
            self._owner.link_made()

    def data_received(self, data: bytes) -> None:
        if self._lower is None:
            return  # it broke the protocol, and the transport has not ended yet
        self.received += len(data)
        self._pulse.heard = self._loop.time()
        try:
            events = self._http.receive_data(data)
        except RemoteProtocolError as exc:
            self._break(exc)
            return
        streams, consumed = self._streams, self._http.consumed
        for event in events:
            if type(event) is DataReceived:
                stream_id, payload, amount, end = event
                stream = streams.get(stream_id)
                if stream is not None:  # else we ended it, and without credit the peer would never come to its own end
                    amount = stream.fed(payload, amount)
                if amount:
                    consumed(stream_id, amount)
                if end:
                    self._peer_ended(stream_id)
            else:
                self._other(event)
        if self._http.has_data_to_send:
            self._flush_soon()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        exc = self._reason or exc  # a peer that says why it goes may cut before we have closed
        self._lower = None
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        streams = list(self._streams.values())
        self._streams.clear()
        self._endings.clear()
        self._http.terminate()
        for stream in streams:
            loss = StreamLostError("the link was lost")
            loss.__cause__ = exc
            stream.lost(loss)
        self._table.wake()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.link_lost(exc)

    # --- what streams use (stream.Carrier) --------------------------------------------------------------------------

    def stream_write(self, stream: LinkStream, data: bytes) -> int:
        try:
            queued = self._http.send_data(stream.id, data)
        except LocalProtocolError:
            return 0  # reset: the news is in the batch of events being delivered now
        if not self._flush_due:
            self._flush_soon()
        return queued

    def stream_watched(self, stream: LinkStream, level: int) -> None:
        self._http.watch(stream.id, level)

    def stream_respond(self, stream: LinkStream, headers: Headers) -> None:
        try:
            self._http.send_headers(stream.id, headers)
        except LocalProtocolError:
            stream.abort()  # reset a moment ago, or a head larger than the peer takes
            return
        self._flush_soon()

    def stream_consumed(self, stream: LinkStream, amount: int) -> None:
        self._http.consumed(stream.id, amount)
        if self._http.has_data_to_send:
            self._flush_soon()

    def stream_queued(self, stream: LinkStream) -> int:
        return self._http.queued(stream.id)

    def stream_held(self, amount: int) -> None:
        self._budget.hold(amount)

    def stream_closed(self, stream: LinkStream) -> None:
        try:
            self._http.end_stream(stream.id)
        except LocalProtocolError:
            self._reset_stream(stream.id, CANCEL)  # no head was sent, or it was reset a moment ago
            self._remove(stream.id)
            stream.lost(None)
            return
        self._flush_soon()
        queued = self._http.queued(stream.id)
        if queued:
            self._endings.closing(stream.id, queued, self._loop.time())
            self._http.watch(stream.id, 0)
        else:
            self._sent_all(stream)

    def stream_aborted(self, stream: LinkStream, code: int) -> None:
        self._remove(stream.id)
        self._reset_stream(stream.id, code)

    # --- events -----------------------------------------------------------------------------------------------------

    def _other(self, event: Event) -> None:
        match event:
            case HeadersReceived(stream_id=stream_id, headers=headers, end_stream=end):
                self._headers(stream_id, headers)
                if end:
                    self._peer_ended(stream_id)
            case StreamReset(stream_id=stream_id, code=code):
                self._reset(stream_id, code)
            case GoawayReceived() as goaway:
                self._draining = True
                if goaway.code != ErrorCode.NO_ERROR and self._lower is not None:
                    self._reason = RemoteProtocolError(f"the peer ended the link: {goaway.reason}", goaway.code)
                    self._lower.close()
            case PingAcknowledged():
                self._pulse.answered()
            case _:
                pass

    def _headers(self, stream_id: int, headers: Headers) -> None:
        stream = self._streams.get(stream_id)
        if self._role is Role.EDGE:
            # Interim heads mean nothing here, and trailers nothing behind raw bytes.
            if stream is not None and status_of(headers) >= 200:
                stream.head_received(headers)
        elif stream is None and not self._endings.is_lingering(stream_id) and status_of(headers) == 0:
            stream = self._add(stream_id, headers)
            if self._owner is None or self._ended or self._draining:
                stream.refuse()
            else:
                self._owner.stream_requested(stream)

    def _reset(self, stream_id: int, code: int) -> None:
        stream = self._remove(stream_id)
        if stream is None:
            return
        if code == ErrorCode.REFUSED_STREAM:
            stream.lost(StreamRefusedError("the agent refused the stream"))
        else:
            stream.lost(StreamLostError("the stream was reset", code=code))

    def _peer_ended(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.fed_eof()
        else:
            self._endings.forget(stream_id)

    def _break(self, exc: RemoteProtocolError) -> None:
        """The peer broke the protocol: say so and end this link, and nothing else."""
        self._ended = True
        self._flush()
        if self._lower is not None:
            self._lower.close()
            self.connection_lost(exc)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        """One write for all that this turn of the loop has to say."""
        if not self._flush_due and not self._blocked and self._lower is not None:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        lower, http = self._lower, self._http
        if lower is None:
            return
        while not self._blocked and (data := http.data_to_send(_CHUNK)):
            self.sent += len(data)
            lower.write(data)
            if len(data) < _CHUNK:
                break  # it was all
        for stream_id in http.take_drained():
            if (stream := self._streams.get(stream_id)) is not None:
                self._drained(stream)

    def _drained(self, stream: LinkStream) -> None:
        """Its queue has become as short as it was watched for."""
        if self._endings.is_closing(stream.id):
            self._sent_all(stream)
        else:
            stream.drained()

    def _sent_all(self, stream: LinkStream) -> None:
        """Our end of it is on its way, and that is all this side waits for."""
        self._remove(stream.id)
        if not stream.peer_ended:
            self._endings.lingering(stream.id, self._loop.time())
        stream.lost(None)

    # --- time -------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.time()
        self._timer = self._loop.call_later(self._rounds.every, self._tick)
        due = self._rounds.go(now)
        if due.is_gone:
            self._ended = True
            if self._lower is not None:
                cut(self._lower)
            self.connection_lost(TimeoutError("the peer answers no pings"))
            return
        if due.is_ping_due:
            self._ping(now)
        for stream_id in due.stuck:
            self._give_up(stream_id, "the peer took no more of a closed stream")
        for stream_id in due.lingering:
            self._endings.forget(stream_id)
            self._reset_stream(stream_id, CANCEL)
        for stream_id in due.stalled:
            self._give_up(stream_id, "the stream stalled and held the link's window")
        self._flush_soon()

    def _ping(self, now: float) -> None:
        self._pulse.asked(now)
        self._http.ping(_PING)

    def _give_up(self, stream_id: int, reason: str) -> None:
        stream = self._remove(stream_id)
        self._reset_stream(stream_id, CANCEL)
        if stream is not None:
            stream.lost(TimeoutError(reason))

    # --- the table of streams ---------------------------------------------------------------------------------------

    def _add(self, stream_id: int, headers: Headers) -> LinkStream:
        stream = LinkStream(self, stream_id, headers, high_water=self._limits.high_water, loop=self._loop)
        self._streams[stream_id] = stream
        stream.begin()
        return stream

    def _remove(self, stream_id: int) -> LinkStream | None:
        self._endings.forget(stream_id)
        return self._table.remove(stream_id)

    def _reset_stream(self, stream_id: int, code: int) -> None:
        self._http.reset_stream(stream_id, code)
        self._flush_soon()
