"""The one transport contract: every hop of the wire is an `asyncio.Transport`, whether or not a socket is near.

Inner TLS over a WebSocket over a link's stream over TLS is then composition, not code. What holds for all of them, and
what `tests/conformance` runs against each:

1. Nothing is delivered before `connection_made`, which is called once.
2. Nothing is delivered while reading is paused, not even the rest of a frame already received; what waits is bounded by
   what the layer below had in hand when reading paused.
3. A clean end delivers everything sent before it, then `eof_received`, then `connection_lost(None)`. There is no
   half-close on this wire: whatever `eof_received` returns, the transport then closes itself.
4. An unclean end (cut, reset, abort) drops what is queued and calls `connection_lost(exc)`, even while reading is paused.
5. `close()` delivers what was written, then ends cleanly; `abort()` overtakes what was written. Both are idempotent, and
   nothing is delivered after either.
6. Writing past the high-water mark calls `pause_writing` once, and falling below the low one `resume_writing` once.
7. `get_extra_info` answers from this layer, then from the one below; no answer needs a socket.
8. An exception out of the protocol ends this transport alone, never the one it runs on or its siblings.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class _State(Enum):
    OPENING = 0
    OPEN = 1
    CLOSING = 2  # close() or abort() was called, or the peer ended: nothing more is delivered
    CLOSED = 3  # connection_lost has been called or is scheduled


class StreamTransport(asyncio.Transport):
    """What all byte pipes that are not sockets share: states, the inbox of a paused reader, the order of the last calls.

    A subclass implements the `_below_*` hooks and reports what happens below through `_opened`, `_feed`, `_feed_eof` and
    `_lost`.
    """

    __slots__ = ("__weakref__", "_ended", "_inbox", "_loop", "_loss", "_paused", "_protocol", "_state")

    def __init__(self, protocol: asyncio.BaseProtocol, loop: asyncio.AbstractEventLoop | None = None) -> None:
        # asyncio.Transport's own __init__ only makes a dictionary for extra info that this class does not use.
        self._loop = loop or asyncio.get_running_loop()
        self._protocol: asyncio.Protocol = protocol  # pyright: ignore[reportAttributeAccessIssue]  # asyncio's own signature is the wider one
        self._state = _State.OPENING
        self._paused = False
        self._inbox: deque[bytes] | None = None  # made at need: most streams never pause
        self._ended = False  # the peer's clean end has arrived and waits behind the inbox
        self._loss: list[Exception | None] | None = None  # connection_lost waits behind the inbox

    # --- hooks: what a subclass does below --------------------------------------------------------------------------

    def _below_write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; what cannot be sent at once counts towards the watermarks. The buffer is not kept."""
        raise NotImplementedError

    def _below_close(self) -> None:
        """Send what was written and the clean end, then call `_lost(None)`."""
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

    # --- reports: what happened below -------------------------------------------------------------------------------

    def _opened(self) -> None:
        if self._state is not _State.OPENING:
            return
        self._state = _State.OPEN
        self._guard(self._protocol.connection_made, self)

    def _feed(self, data: bytes) -> None:
        """Deliver `data`, now or when reading resumes."""
        if self._state is not _State.OPEN or self._ended or not data:
            return
        if self._paused or self._inbox:
            if self._inbox is None:
                self._inbox = deque()
            self._inbox.append(data)
            return
        self._guard(self._protocol.data_received, data)

    def _feed_eof(self) -> None:
        """The peer ended cleanly: what is in the inbox first, then `eof_received`, then our own close."""
        if self._state is not _State.OPEN or self._ended:
            return
        self._ended = True
        if not self._paused and not self._inbox:
            self._deliver_eof()

    def _lost(self, exc: Exception | None) -> None:
        """Below is gone. A clean loss waits for a paused reader; an unclean one does not."""
        if self._state is _State.CLOSED:
            return
        if exc is None and self._state is _State.OPEN and self._ended:
            self._loss = [None]
            return
        opened = self._state is not _State.OPENING
        self._state = _State.CLOSED
        self._inbox = None
        if opened:
            self._loop.call_soon(self._deliver_loss, exc)

    # --- delivery ---------------------------------------------------------------------------------------------------

    def _deliver_loss(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, _GONE
        self._guard(protocol.connection_lost, exc)

    def _deliver_eof(self) -> None:
        self._guard(self._protocol.eof_received)
        if self._loss is not None:
            self._state = _State.CLOSING
            self._lost(self._loss[0])
        else:
            self.close()

    def _drain_inbox(self) -> None:
        while not self._paused and self._state is _State.OPEN:
            if self._inbox:
                self._guard(self._protocol.data_received, self._inbox.popleft())
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
        self._protocol = protocol  # pyright: ignore[reportAttributeAccessIssue]  # as in __init__

    def is_closing(self) -> bool:
        return self._state in {_State.CLOSING, _State.CLOSED}

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
        if self.is_closing() or not data:
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
        self._state = _State.CLOSING
        self._inbox = None
        self._below_close()

    def abort(self) -> None:
        if self._state is _State.CLOSED:
            return
        self._below_abort()
        if self._state is _State.OPENING:
            self._state = _State.CLOSED
            return
        self._state = _State.CLOSING
        self._lost(None)


class LayeredTransport(StreamTransport, asyncio.Protocol):
    """A transport on top of another: one object is the upper's transport and the lower's protocol.

    Watermarks are the lower's: it calls `pause_writing` here, and it is passed up.
    """

    __slots__ = ("_lower",)

    def __init__(
        self,
        lower: asyncio.Transport,
        protocol: asyncio.BaseProtocol,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(protocol, loop)
        self._lower = lower

    # --- the lower's protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never called: a layer is put on a transport that is already open."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    def pause_writing(self) -> None:
        if self._state is _State.OPEN:
            self._guard(self._protocol.pause_writing)

    def resume_writing(self) -> None:
        if self._state is _State.OPEN:
            self._guard(self._protocol.resume_writing)

    # --- hooks that most layers keep --------------------------------------------------------------------------------

    def _below_pause(self) -> None:
        self._lower.pause_reading()

    def _below_resume(self) -> None:
        self._lower.resume_reading()

    def _below_abort(self) -> None:
        self._lower.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._lower.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._lower.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._lower.get_write_buffer_limits()


class _Gone(asyncio.Protocol):
    """Stands in after `connection_lost`, so that a dead transport keeps nobody alive."""


_GONE = _Gone()
