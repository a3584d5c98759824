"""TLS over any transport: our driver over `ssl.SSLObject` and two memory BIOs.

What it does that others do not: the alert of a refused handshake reaches the peer; the caller's rules run after the peer's
flight is verified and before our own Finished leaves; an end without close_notify is an error; it needs no socket.

The two BIOs are shared by all sessions of a loop. That is sound because every operation here feeds what it has, runs
OpenSSL and takes out all that is left before it calls anybody, and it makes an idle session cost no buffer at all: a
memory BIO never gives back the room of the largest burst it has seen.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from penstock.net.closing import END_TIMEOUT, close_gently
from penstock.net.layered import LayeredTransport
from penstock.net.sockets import READ_MOST, RECORD
from penstock.net.transports import CLOSED, OPEN, OPENING, cut

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from penstock.tls.contexts import TLSContext

# A handshake takes two round trips; ten seconds is patience with a phone, and short enough to be no place to hide.
HANDSHAKE_TIMEOUT: Final = 10.0
# Certificate chains of both sides twice over; counted until the handshake is done.
HANDSHAKE_LIMIT: Final = 131_072

# RFC 8446 4.6.3: an update of keys is asked for in 27 bytes and answered in as many, also to a peer that reads nothing. The RFC
# wants one every 2^24 records (5.5); 150 in ten seconds are nobody's.
_ANSWERS_MOST: Final = 4096
_ANSWERS_SECONDS: Final = 10.0
_BATCH_RECORDS: Final = 4  # 64 KiB: so much is handed on at a time, either way; fewer calls for it, and still no lump
_BATCH: Final = _BATCH_RECORDS * RECORD
# RFC 8446 6.2: fatal bad_certificate, as a record in the clear. OpenSSL servers take a clear alert until the client's
# second flight arrives, for exactly this case: a client that refuses before it has sent anything under keys.
_REFUSAL: Final = b"\x15\x03\x03\x00\x02\x02\x2a"


def start_tls(
    lower: asyncio.Transport,
    protocol: asyncio.BaseProtocol,
    context: TLSContext,
    *,
    server_side: bool,
    server_hostname: str | None = None,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    shutdown_timeout: float = END_TIMEOUT,
    check_peer: Callable[[ssl.SSLObject], None] | None = None,
    on_failed: Callable[[Exception], None],
    initial: bytes = b"",
    peername: tuple[str, int] | None = None,
) -> TLSTransport:
    """Take over the open transport `lower` and start a TLS session on it.

    `protocol.connection_made(tls)` is called after the handshake. If the handshake fails it is not; `on_failed(exc)` is
    called once instead, later and never inside this call, with `ssl.SSLError`, `TimeoutError`, `ConnectionError` or what
    `check_peer` raised. The alert is on its way then, and `lower` is closed after `on_failed` returns, so that it may say
    more first (a WebSocket's close reason). Where it is the peer that refuses, `on_failed` is called when the peer has ended
    `lower`, or `shutdown_timeout` later: what it says there last is known then (`WebSocketTransport.close_reason`).

    `check_peer` raises to refuse a peer that OpenSSL accepts. On the client side it runs before our Finished leaves (in
    TLS 1.2, whose client finishes first, before the first byte of payload); on the server side before the first byte is
    delivered. `shutdown_timeout` bounds, in seconds, how long the peer may take to end after we did. `initial` is what was
    already read from `lower`. `peername`: whom a balancer in front named, instead of itself.

    In TLS 1.3 a server may refuse the client's certificate after the client's handshake is done: the client sees
    `connection_made`, then `connection_lost` with the `ssl.SSLError` that names the alert.
    """
    tls = TLSTransport(
        lower,
        protocol,
        context,
        server_side=server_side,
        server_hostname=server_hostname,
        shutdown_timeout=shutdown_timeout,
        check_peer=check_peer,
        on_failed=on_failed,
        peername=peername,
    )
    tls.start(initial, handshake_timeout)
    return tls


class TLSTransport(LayeredTransport):
    """One TLS session; made by `start_tls`.

    `get_extra_info` knows `ssl_object`, `peercert` (the dictionary), `peercert_der`, `cipher`, `server_name` (server
    side: the SNI that the context's callback recorded on the object; client side: whom we asked for).
    """

    __slots__ = (
        "_answered",
        "_answered_since",
        "_check_peer",
        "_early",
        "_failure",
        "_in",
        "_on_failed",
        "_out",
        "_peername",
        "_seen",
        "_shutdown_timeout",
        "_ssl",
        "_timer",
    )

    def __init__(
        self,
        lower: asyncio.Transport,
        protocol: asyncio.BaseProtocol,
        context: TLSContext,
        *,
        server_side: bool,
        server_hostname: str | None,
        shutdown_timeout: float,
        check_peer: Callable[[ssl.SSLObject], None] | None,
        on_failed: Callable[[Exception], None],
        peername: tuple[str, int] | None,
    ) -> None:
        super().__init__(lower, protocol)
        self._peername = peername
        self._in, self._out = _bios(self._loop)
        self._ssl = context.wrap_bio(self._in, self._out, server_side=server_side, server_hostname=server_hostname)
        self._shutdown_timeout = shutdown_timeout
        self._answered = 0  # bytes, within an interval or while they do not leave
        self._answered_since = 0.0
        self._check_peer = check_peer
        self._on_failed: Callable[[Exception], None] | None = on_failed
        self._timer: asyncio.TimerHandle | None = None
        self._early: list[bytes] | None = None  # written before the handshake was done
        self._seen = 0  # bytes of handshake
        self._failure: Exception | None = None  # of the handshake, not reported yet

    def start(self, initial: bytes, timeout: float) -> None:
        """Begin the handshake; `start_tls` calls this."""
        if self._lower.is_closing():
            self._fail(ConnectionResetError("the connection was gone before the TLS handshake"))
            return
        self._lower.set_protocol(self)
        self._timer = self._loop.call_later(timeout, self._timed_out)
        self._shake(initial)
        if self._state is OPENING or (self._state is OPEN and not self._paused):
            self._lower.resume_reading()

    # --- handshake --------------------------------------------------------------------------------------------------

    def _shake(self, data: bytes | memoryview) -> None:
        self._seen += len(data)
        if self._seen > HANDSHAKE_LIMIT:
            self._fail(ssl.SSLError(ssl.SSL_ERROR_SSL, "the TLS handshake is too large"))
            return
        if data:
            self._in.write(data)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._lower.write(self._out.read())
        except ssl.SSLError as exc:
            self._in.read()
            alert = self._out.read()
            self._lower.write(alert)
            # With nothing of ours to say it was the peer that refused; it is about to end, and may say why below.
            self._fail(exc, wait_for_peer=not alert)
        else:
            # Both BIOs are emptied before anybody else's code runs.
            self._established(flight=self._out.read(), rest=self._in.read())

    def _established(self, *, flight: bytes, rest: bytes) -> None:
        if self._check_peer is not None:
            try:
                self._check_peer(self._ssl)
            except Exception as exc:  # noqa: BLE001 - whatever stops the check refuses the peer
                self._refuse(exc)
                return
            self._check_peer = None
        self._stop_timer()
        self._on_failed = None
        self._lower.write(flight)  # our Finished; a server's session tickets
        early, self._early = self._early, None
        if early is not None:
            self._encrypt(b"".join(early))
        if self._paused:
            super()._below_pause()
        self._opened()
        if rest:
            self.data_received(rest)

    def _refuse(self, exc: Exception) -> None:
        # A server that has finished has no way through OpenSSL's interface to send an alert: it leaves without
        # close_notify, which the client takes for an error.
        if not self._ssl.server_side and self._ssl.version() == "TLSv1.3":
            self._lower.write(_REFUSAL)
        self._fail(exc)

    def _timed_out(self) -> None:
        self._fail(TimeoutError("the TLS handshake took too long"))

    def _fail(self, exc: Exception, *, wait_for_peer: bool = False) -> None:
        if self._state is not OPENING:
            return
        self._state = CLOSED
        self._stop_timer()
        self._early = None
        self._failure = exc.with_traceback(None)  # whose frames hold this session: whoever keeps the one would keep the other
        if wait_for_peer:
            self._timer = self._loop.call_later(self._shutdown_timeout, self._report_failure)
        else:
            self._loop.call_soon(self._report_failure)

    def _report_failure(self) -> None:
        self._stop_timer()
        exc, self._failure = self._failure, None
        if exc is None:
            return
        on_failed, self._on_failed, self._check_peer = self._on_failed, None, None
        if on_failed is not None:
            self._guard(on_failed, exc)
        if isinstance(exc, TimeoutError):
            cut(self._lower)
        else:
            close_gently(self._lower, timeout=self._shutdown_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- from below -------------------------------------------------------------------------------------------------

    def buffer_updated(self, nbytes: int) -> None:
        if nbytes == READ_MOST:
            self._take_turns()
        self.data_received(self._room[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        if self._state is not OPEN or self._ended:
            if self._state is OPENING:
                self._shake(data)
            return
        incoming = self._in
        incoming.write(data)
        try:
            record = self._ssl.read(RECORD)
        except ssl.SSLError as exc:
            self._decrypt([], exc.with_traceback(None))  # else it holds this frame, and this frame it
            return
        if record and not incoming.pending and not self._out.pending:
            self._feed(record)  # one whole record has come, as nearly always
        else:
            self._decrypt([record], None)

    def _decrypt(self, records: list[bytes], failure: ssl.SSLError | None) -> None:
        """Go on behind what was read first, of which nobody was told yet: both BIOs are emptied before."""
        incoming, read = self._in, self._ssl.read
        try:
            while failure is None and records[-1] and incoming.pending:
                records.append(read(RECORD))
        except ssl.SSLError as exc:
            failure = exc.with_traceback(None)
        ended = isinstance(failure, ssl.SSLZeroReturnError) or (bool(records) and not records[-1])  # close_notify
        if ended or isinstance(failure, ssl.SSLWantReadError):
            failure = None
        if incoming.pending:
            incoming.read()
        if self._out.pending:  # an alert, or answers to key updates
            failure = self._answer(self._out.read()) or failure
        for start in range(0, len(records), _BATCH_RECORDS):
            self._feed(b"".join(records[start : start + _BATCH_RECORDS]))
        if ended:
            self._feed_eof()
        elif failure is not None:
            self._break(failure)

    def _answer(self, answer: bytes) -> ssl.SSLError | None:
        """Send what OpenSSL says by itself. Nobody's back-pressure holds it up, so that a peer asks for little of it."""
        self._lower.write(answer)
        now = self._loop.time()
        if now >= self._answered_since + _ANSWERS_SECONDS and not self._choked:
            self._answered, self._answered_since = 0, now
        self._answered += len(answer)
        if self._answered <= _ANSWERS_MOST:
            return None
        return ssl.SSLError(ssl.SSL_ERROR_SSL, "the peer updates its keys too often")

    def eof_received(self) -> None:
        self.connection_lost(None)  # what that means depends on whether close_notify came before

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state is OPENING:
            self._fail(exc or ConnectionResetError("the connection ended during the TLS handshake"))
        elif self._failure is not None:
            self._report_failure()
        elif self._state is OPEN and not self._ended:
            self._lost(exc or ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection was lost without close_notify"))
        else:
            self._lost(None)

    def _break(self, exc: Exception) -> None:
        """The session is in error; the alert, if there is one, is on its way."""
        if self._state is OPEN and not self._ended:
            self._lost(exc)
            close_gently(self._lower, timeout=self._shutdown_timeout)

    # --- to below ---------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if type(data) is not bytes or not 0 < len(data) <= RECORD or self._state is not OPEN:
            super().write(data)
            return
        try:  # one record of one write, as nearly always
            taken = self._ssl.write(data)
        except ssl.SSLError as exc:
            self._fail_writing(exc)
            return
        self._lower.write(self._out.read())
        if taken < len(data):
            self._below_write(memoryview(data)[taken:])

    def _below_write(self, data: bytes | bytearray | memoryview) -> None:
        if self._state is OPENING:
            if self._early is None:
                self._early = []
            self._early.append(bytes(data))
            return
        try:
            self._encrypt(data)
        except ssl.SSLError as exc:
            self._fail_writing(exc)

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        # OpenSSL takes one record a call: 16 KiB, or less where the peer negotiated a maximum fragment length.
        write, out = self._ssl.write, self._out
        start = 0
        with memoryview(data) as given, given.cast("B") as view:
            while start < len(view):
                end = min(start + _BATCH, len(view))
                if len(view) - end < RECORD:
                    end = len(view)  # its tail goes along: by itself it would be a write more
                while start < end:
                    start += write(view[start : min(start + RECORD, end)])
                self._lower.write(out.read())

    def _fail_writing(self, exc: ssl.SSLError) -> None:
        self._in.read()
        self._out.read()
        self._break(exc.with_traceback(None))

    def _below_close(self) -> None:
        # It wants the peer's close_notify, for which nobody waits; or the session is in error already.
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        self._lower.write(self._out.read())
        close_gently(self._lower, timeout=self._shutdown_timeout, on_closed=self._gone)

    def _gone(self) -> None:
        self._lost(None)

    def _below_abort(self) -> None:
        self._stop_timer()
        super()._below_abort()

    def _below_pause(self) -> None:
        if self._state is not OPENING:  # the handshake goes on
            super()._below_pause()

    # --- information ------------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "ssl_object":
                return self._ssl
            case "peercert_der":
                return self._ssl.getpeercert(binary_form=True)
            case "peercert":
                return self._ssl.getpeercert()
            case "cipher":
                return self._ssl.cipher()
            case "server_name":
                return getattr(self._ssl, "server_name", None) or self._ssl.server_hostname
            case "peername" if self._peername is not None:
                return self._peername
            case _:
                return self._lower.get_extra_info(name, default)


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[ssl.MemoryBIO, ssl.MemoryBIO]] = WeakKeyDictionary()


def _bios(loop: asyncio.AbstractEventLoop) -> tuple[ssl.MemoryBIO, ssl.MemoryBIO]:
    """The pair of this loop; one loop runs one callback at a time, whatever thread it is in."""
    pair = _shared.get(loop)
    if pair is None:
        pair = _shared[loop] = (ssl.MemoryBIO(), ssl.MemoryBIO())
    return pair
