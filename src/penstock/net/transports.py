"""The one transport contract: every hop of the wire is an `asyncio.Transport`, whether or not a socket is near.

Inner TLS over a WebSocket over a link's stream over TLS is then composition, not code. What holds for all of them, and
what `tests/conformance` runs against each:

1. Nothing is delivered before `connection_made`, which is called once.
2. Nothing is delivered while reading is paused, not even the rest of a frame already received; what waits is bounded by
   what the layer below had in hand when reading paused.
3. A clean end delivers everything sent before it, then `eof_received`, then `connection_lost(None)`. There is no
   half-close on this wire: whatever `eof_received` returns, the transport then closes itself.
4. An unclean end (cut, reset, the peer's abort) drops what is queued and calls `connection_lost(exc)`, even while
   reading is paused.
5. `close()` delivers what was written, then ends cleanly; `abort()` overtakes what was written. Both are idempotent, and
   nothing is delivered after either but `connection_lost(None)`, once, later and never inside the call.
6. Writing past the high-water mark calls `pause_writing` once, and falling below the low one `resume_writing` once.
7. `get_extra_info` answers from this layer, then from the one below; no answer needs a socket.
8. An exception out of the protocol ends this transport alone, never the one it runs on or its siblings.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


class _State(Enum):
    OPENING = 0
    OPEN = 1
    CLOSING = 2  # close() or abort() was called, or the peer ended: nothing more is delivered
    CLOSED = 3  # connection_lost has been called or is scheduled


# Looked up once a chunk: a global is found faster than a member of an Enum.
OPENING: Final = _State.OPENING
OPEN: Final = _State.OPEN
CLOSING: Final = _State.CLOSING
CLOSED: Final = _State.CLOSED

PIECE_LEAST: Final = 4096
"""Of what waits, smaller pieces are put together: an object and its place take 70 bytes."""
_DRAIN_MOST: Final = 64 * 1024
"""So much of what waited is delivered in one turn of the loop, as of what is read from a socket."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def cut(transport: asyncio.Transport) -> None:
    """Abort so that the peer knows it for one.

    The abort of a bare socket sends a FIN, which reads as a clean end; with SO_LINGER 0 it is a reset, which also
    overtakes what the kernel has queued.
    """
    if not isinstance(transport, StreamTransport):
        below: Any = transport.get_extra_info("socket")
        if below is not None:
            if below.fileno() < 0:
                return  # gone already, and asyncio's abort() may then trip over itself
            with contextlib.suppress(OSError, ValueError):  # closed already (uvloop: ValueError), or no TCP
                below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


class StreamTransport(asyncio.Transport):
    """What all byte pipes that are not sockets share: states, the inbox of a paused reader, the order of the last calls.

    A subclass implements the `_below_*` hooks and reports what happens below through `_opened`, `_feed`, `_feed_eof`,
    `_choke`, `_unchoke` and `_lost`. All reports may come inside any call.
    """

    __slots__ = ("__weakref__", "_choked", "_ended", "_inbox", "_loop", "_loss", "_paused", "_protocol", "_state")

    def __init__(self, protocol: asyncio.BaseProtocol, loop: asyncio.AbstractEventLoop | None = None) -> None:
        # asyncio.Transport's own __init__ only makes a dictionary for extra info that this class does not use.
        self._loop = loop or asyncio.get_running_loop()
        self._protocol: asyncio.Protocol = protocol  # pyright: ignore[reportAttributeAccessIssue]  # asyncio's own signature is the wider one
        self._state = OPENING
        self._paused = False
        self._choked = False  # below has had enough: the protocol was told, or will be once it is connected
        self._inbox: deque[bytes | bytearray] | None = None  # made at need: most streams never pause
        self._ended = False  # the peer's clean end has arrived and waits behind the inbox
        self._loss = False  # below is gone, cleanly, while the end still waits behind the inbox

    # --- hooks: what a subclass does below --------------------------------------------------------------------------

    def _below_write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; what cannot be sent at once counts towards the watermarks. The buffer is not kept."""
        raise NotImplementedError

    def _below_close(self) -> None:
        """Send what was written and the clean end, then call `_lost(None)`; bounded in time."""
        raise NotImplementedError

    def _below_abort(self) -> None:
        """Drop what was written and cut; called once, the caller reports the loss."""
        raise NotImplementedError

    def _below_pause(self) -> None:
        """Take no more from the peer."""
        raise NotImplementedError

    def _below_resume(self) -> None:
        """Take from the peer again."""
        raise NotImplementedError

    def _taken(self, size: int) -> None:
        """The protocol took `size` bytes that had waited in the inbox."""

    # --- reports: what happened below -------------------------------------------------------------------------------

    def _opened(self) -> None:
        if self._state is not OPENING:
            return
        self._state = OPEN
        self._guard(self._protocol.connection_made, self)
        if self._choked and self._state is OPEN:
            self._guard(self._protocol.pause_writing)

    def _feed(self, data: bytes) -> None:
        """Deliver `data`, now or when reading resumes."""
        if self._state is not OPEN or self._ended or not data:
            return
        if self._paused or self._inbox:
            self._put(data)
            return
        try:  # _guard, in place: this is the hot path
            self._protocol.data_received(data)
        except Exception as exc:  # noqa: BLE001 - as in _guard
            self._protocol_failed(exc)

    def _put(self, data: bytes) -> None:
        """Into the inbox. Small pieces are put together: an object for each byte would take many times what is counted."""
        inbox = self._inbox
        if inbox is None:
            self._inbox = deque((data,))
        elif inbox and len(data) < PIECE_LEAST and len(last := inbox[-1]) < PIECE_LEAST:
            if type(last) is bytearray:
                last += data
            else:
                inbox[-1] = bytearray(last) + data
        else:
            inbox.append(data)

    def _feed_eof(self) -> None:
        """The peer ended cleanly: what is in the inbox first, then `eof_received`, then our own close."""
        if self._state is not OPEN or self._ended:
            return
        self._ended = True
        if not self._paused and not self._inbox:
            self._deliver_eof()

    def _choke(self) -> None:
        """Past the high-water mark: the protocol stops writing."""
        if self._choked:
            return
        self._choked = True
        if self._state is OPEN:
            self._guard(self._protocol.pause_writing)

    def _unchoke(self) -> None:
        """Below the low-water mark again."""
        if not self._choked:
            return
        self._choked = False
        if self._state is OPEN:
            self._guard(self._protocol.resume_writing)

    def _lost(self, exc: Exception | None) -> None:
        """Below is gone. Whoever ended cleanly before keeps what it sent; any other loss does not wait for a reader."""
        if self._state is CLOSED:
            return
        if self._ended and self._state is OPEN:
            self._loss = True
            return
        opened = self._state is not OPENING
        self._state = CLOSED
        self._inbox = None
        if opened:
            self._loop.call_soon(self._deliver_loss, exc)

    # --- delivery ---------------------------------------------------------------------------------------------------

    def _deliver_loss(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, _GONE
        self._guard(protocol.connection_lost, exc)

    def _deliver_eof(self) -> None:
        self._guard(self._protocol.eof_received)
        self.close()

    def _drain_inbox(self) -> None:
        room = _DRAIN_MOST
        while not self._paused and self._state is OPEN:
            if self._inbox:
                if room <= 0:
                    self._loop.call_soon(self._drain_inbox)
                    return
                data = bytes(self._inbox.popleft())
                room -= len(data)
                self._guard(self._protocol.data_received, data)
                self._taken(len(data))
                continue
            self._inbox = None
            if self._ended:
                self._deliver_eof()
            else:
                self._below_resume()
            return

    def _guard(self, call: Any, *args: Any) -> None:
        """Rule 8: many streams share one link, so a protocol's mistake must not climb into the layer below."""
        try:
            call(*args)
        except Exception as exc:  # noqa: BLE001 - the boundary between a layer and whatever program runs on it
            self._protocol_failed(exc)

    def _protocol_failed(self, exc: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": "a stream's protocol raised; the stream is cut", "exception": exc, "transport": self}
        )
        self.abort()

    # --- asyncio.Transport ------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - the base has no extra info
        return default

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if self._protocol is not _GONE:
            self._protocol = protocol  # pyright: ignore[reportAttributeAccessIssue]  # as in __init__

    def is_closing(self) -> bool:
        return self._state is CLOSING or self._state is CLOSED

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        if self._paused or self.is_closing():
            return
        self._paused = True
        if not self._ended:
            self._below_pause()

    def resume_reading(self) -> None:
        if not self._paused:
            return
        self._paused = False
        if self.is_closing():
            return
        if self._inbox or self._ended:
            # Later, never inside the caller's own frame: a protocol that resumes from data_received would recurse.
            self._loop.call_soon(self._drain_inbox)
        else:
            self._below_resume()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._state is CLOSING or self._state is CLOSED or not data:
            return
        self._below_write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        msg = "this wire has no half-close"
        raise NotImplementedError(msg)

    def close(self) -> None:
        if self.is_closing():
            return
        if self._state is OPENING:  # nobody was told of it, so there is nothing to end in order
            self.abort()
            return
        self._state = CLOSING
        self._inbox = None
        if self._loss:
            self._lost(None)
        else:
            self._below_close()

    def abort(self) -> None:
        if self._state is CLOSED:
            return
        opening = self._state is OPENING
        self._state = CLOSED if opening else CLOSING
        if not self._loss:
            self._below_abort()
        self._lost(None)


class Parked(asyncio.Protocol):
    """The protocol of an open, paused transport that waits for its next owner; it remembers an end meanwhile.

    The next owner calls `set_protocol`, then `resume_reading`; `transport.is_closing()` tells it of an end it missed.
    """

    __slots__ = ("lost",)

    def __init__(self) -> None:
        self.lost: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # every transport here reads

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc


class _Gone(asyncio.Protocol):
    """Stands in after `connection_lost`, so that a dead transport keeps nobody alive."""


_GONE = _Gone()
