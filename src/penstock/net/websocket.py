"""A WebSocket as a byte pipe: an `asyncio.Transport` over another, after the upgrade.

Besides bytes it carries two things: why it ended (Close code and reason), and signs of life. Anything received counts as
one. A side that has stopped reading sends pongs unasked, for it cannot answer pings, and nobody is declared dead while
what we sent it has not left yet, or while we do not listen ourselves.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from penstock.net.closing import END_TIMEOUT, close_gently
from penstock.net.layered import LayeredTransport
from penstock.net.sockets import READ_MOST
from penstock.net.transports import CLOSING, OPEN, cut
from penstock.protocol.websocket import GOING_AWAY, NORMAL, Close, Ping, Role, Violation, WebSocketCodec

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

# Middle boxes forget idle connections after 60 s; the spread keeps thousands of streams from pinging in step.
PING_INTERVAL: Final = (25.0, 45.0)
PING_TIMEOUT: Final = 20.0
# Read on while the protocol is paused, up to here, so that pings and a Close behind a little data are still seen.
READ_AHEAD: Final = 65_536

_BATCH: Final = READ_MOST  # so much is framed at a time, four TLS records: a large write makes no second copy of itself


class WebSocketClosed(ConnectionError):  # noqa: N818 - it says what happened
    """The peer's Close, where it was no clean end (1000, 1001)."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"the peer closed the WebSocket: {code or 'no code'} {reason}".rstrip())
        self.code = code
        self.reason = reason


def open_websocket(
    lower: asyncio.Transport,
    protocol: asyncio.BaseProtocol,
    *,
    client_side: bool,
    initial: bytes = b"",
    ping_interval: tuple[float, float] | None = PING_INTERVAL,
    ping_timeout: float = PING_TIMEOUT,
    close_timeout: float = END_TIMEOUT,
    read_ahead: int = READ_AHEAD,
    entropy: Callable[[int], bytes] = os.urandom,
) -> WebSocketTransport:
    """Take over the open transport `lower`, on which the upgrade is done, and call `protocol.connection_made` at once.

    `initial` is what was already read behind the upgrade's head. Pings go out after a random time in `ping_interval`
    seconds (None: never), and a peer that sends nothing for `ping_timeout` seconds after one is gone. `close_timeout`
    bounds how long the peer may take to end after our Close.
    """
    websocket = WebSocketTransport(
        lower,
        protocol,
        client_side=client_side,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
        read_ahead=read_ahead,
        entropy=entropy,
    )
    websocket.start(initial)
    return websocket


class WebSocketTransport(LayeredTransport):
    """A WebSocket's payload as a stream; made by `open_websocket`.

    close_code, close_reason: what the peer's Close said; None and "" before one, and where it gave none.
    """

    __slots__ = (
        "_close_timeout",
        "_codec",
        "_deadline",
        "_entropy",
        "_held",
        "_held_limit",
        "_next_ping",
        "_ping_interval",
        "_ping_timeout",
        "_ping_to_answer",
        "_timer",
        "close_code",
        "close_reason",
    )

    def __init__(
        self,
        lower: asyncio.Transport,
        protocol: asyncio.BaseProtocol,
        *,
        client_side: bool,
        ping_interval: tuple[float, float] | None,
        ping_timeout: float,
        close_timeout: float,
        read_ahead: int,
        entropy: Callable[[int], bytes],
    ) -> None:
        super().__init__(lower, protocol)
        self._codec = WebSocketCodec(Role.CLIENT if client_side else Role.SERVER, entropy)
        self._entropy = entropy
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._close_timeout = close_timeout
        self._held = 0  # bytes taken from below while the protocol is paused
        self._held_limit = read_ahead
        self._next_ping = 0.0
        self._deadline = 0.0  # a ping waits for a sign of life until then; 0 where none does
        self._ping_to_answer: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.close_code: int | None = None
        self.close_reason = ""

    def start(self, initial: bytes) -> None:
        """Begin; `open_websocket` calls this."""
        if self._lower.is_closing():
            self._opened()
            self._end(ConnectionResetError("the connection was gone before the WebSocket began"))
            return
        self._lower.set_protocol(self)
        if self._ping_interval is not None:
            self._next_ping = self._loop.time() + self._draw(self._ping_interval)
            self._arm(self._ping_interval)
        self._opened()
        if initial:
            self.data_received(initial)
        if self._state is OPEN and self._held < self._held_limit:
            self._lower.resume_reading()

    # --- from below -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._state is not OPEN:
            return
        self._deadline = 0.0
        for event in self._codec.receive_data(data):
            if type(event) is bytes:
                self._feed(event)
                if self._inbox:
                    self._hold(len(event))
            else:
                self._control(event)

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held >= self._held_limit:
            super()._below_pause()

    def _control(self, event: object) -> None:
        match event:
            case Ping(payload):
                if self._choked:
                    self._ping_to_answer = payload  # RFC 6455 5.5.3: the latest is enough, so a flood piles up nothing
                else:
                    self._send(self._codec.pong(payload))
            case Close(code, reason):
                if self._state is OPEN:
                    self._peer_closed(code, reason)
            case Violation(code, reason):
                if self._state is OPEN:
                    self._send(self._codec.close(code, reason))
                    self._end(ConnectionAbortedError(f"the peer broke the WebSocket protocol: {reason}"))
            case _:
                pass  # a Pong has done its work by arriving

    def _peer_closed(self, code: int | None, reason: str) -> None:
        self.close_code, self.close_reason = code, reason
        self._stop_timer()
        if code in {NORMAL, GOING_AWAY}:
            self._feed_eof()
            return
        self._send(self._codec.close(code or NORMAL))
        self._end(WebSocketClosed(code, reason))

    def _end(self, exc: Exception) -> None:
        """An unclean end that leaves the layer below in order."""
        self._stop_timer()
        self._lost(exc)
        close_gently(self._lower, timeout=self._close_timeout)

    def eof_received(self) -> None:
        self.connection_lost(ConnectionResetError("the WebSocket ended without a Close"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._state is OPEN and not self._ended:
            self._lost(exc or ConnectionResetError("the WebSocket was lost without a Close"))
        else:
            self._lost(None)

    def _unchoke(self) -> None:
        payload, self._ping_to_answer = self._ping_to_answer, None
        if payload is not None:
            self._send(self._codec.pong(payload))
        super()._unchoke()

    # --- to below ---------------------------------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        self._lower.write(frame)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if type(data) is bytes and 0 < len(data) <= _BATCH and self._state is OPEN:  # nearly all writes
            self._lower.write(self._codec.payload(data))
        else:
            super().write(data)

    def _below_write(self, data: bytes | bytearray | memoryview) -> None:
        with memoryview(data) as given, given.cast("B") as view:
            for start in range(0, len(view), _BATCH):
                self._lower.write(self._codec.payload(view[start : start + _BATCH]))

    def _below_pause(self) -> None:
        pass  # `_hold` does it, once enough is held

    def _read_on(self) -> None:
        if self._held < self._held_limit and not self.is_closing():
            self._lower.resume_reading()

    def _below_resume(self) -> None:
        self._held = 0
        self._lower.resume_reading()

    def refuse(self, code: int, reason: str) -> None:
        """Send Close with this code and reason, then end; what was written before is delivered.

        The other side's `connection_lost` names both, or its end is clean for 1001. `code` is one that a Close may carry
        (RFC 6455 7.4).
        """
        if self._state is not OPEN:
            return
        self._state = CLOSING
        self._inbox = None
        if self._loss:
            self._lost(None)
        else:
            self._leave(code, reason)

    def _below_close(self) -> None:
        self._leave(NORMAL, "")

    def _leave(self, code: int, reason: str) -> None:
        self._stop_timer()
        self._send(self._codec.close(code, reason))
        # The peer's own Close is not waited for: the end below tells as much, and what still comes is discarded there.
        close_gently(self._lower, timeout=self._close_timeout, on_closed=self._gone)

    def _gone(self) -> None:
        self._lost(None)

    def _below_abort(self) -> None:
        self._stop_timer()
        super()._below_abort()

    # --- signs of life ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = None
        if self._state is not OPEN or self._ping_interval is None:
            return
        now = self._loop.time()
        if self._choked:
            self._deadline = 0.0  # what we sent has not left, so no answer is due
        elif not self._lower.is_reading():
            self._deadline = 0.0
            self._send(self._codec.pong())
        elif self._deadline:
            if now >= self._deadline:
                self._lost(TimeoutError("the peer answered no ping"))
                cut(self._lower)
                return
        elif now >= self._next_ping:
            self._send(self._codec.ping())
            self._deadline = now + self._ping_timeout
            self._next_ping = now + self._draw(self._ping_interval)
        self._arm(self._ping_interval)

    def _arm(self, interval: tuple[float, float]) -> None:
        # Twice in the shorter of both times: fine enough for either, and one timer for all that is periodic here.
        self._timer = self._loop.call_later(min(self._ping_timeout, interval[0]) / 2, self._tick)

    def _draw(self, interval: tuple[float, float]) -> float:
        low, high = interval
        return low + (high - low) * int.from_bytes(self._entropy(2), "big") / 65_536

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
