"""A transport on top of another: what TLS, WebSockets and bytes read early have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.net.sockets import BoundedReader, room_of
from penstock.net.transports import OPEN, StreamTransport, cut
from penstock.net.watch import PauseWatch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class LayeredTransport(StreamTransport, BoundedReader):
    """A transport on top of another: one object is the upper's transport and the lower's protocol.

    Watermarks are the lower's: it calls `pause_writing` here, and it is passed up. Over a socket it keeps an eye on the
    peer while reading is paused (rule 4).
    """

    __slots__ = ("_heeded", "_lower", "_room", "_watch")

    def __init__(
        self,
        lower: asyncio.Transport,
        protocol: asyncio.BaseProtocol,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(protocol, loop)
        self._lower = lower
        self._room = room_of(self._loop)
        self._watch: PauseWatch | None = None
        self._heeded: Callable[[], object] | None = None
        # Taken over in mid-flight: the lower told its last protocol to stop writing, and will tell us to go on.
        self._choked = lower.get_write_buffer_size() > lower.get_write_buffer_limits()[1]

    # --- the lower's protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never called: a layer is put on a transport that is already open."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    def pause_writing(self) -> None:
        self._choke()

    def resume_writing(self) -> None:
        self._unchoke()

    def _take_turns(self) -> None:
        self._lower.pause_reading()
        self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._paused and not self.is_closing():
            self._lower.resume_reading()

    # --- hooks that most layers keep --------------------------------------------------------------------------------

    def _below_pause(self) -> None:
        self._lower.pause_reading()
        if not isinstance(self._lower, StreamTransport):
            if self._watch is None:
                self._watch = PauseWatch(self._lower, self._peer_gone, progress=self._heeded)
            self._watch.arm()

    def heed(self, progress: Callable[[], object]) -> None:
        """While reading is paused, `progress()` tells whether the reader still takes anything (`PauseWatch`)."""
        if isinstance(self._lower, LayeredTransport):
            self._lower.heed(progress)
        else:
            self._heeded, self._watch = progress, None

    def _deliver_loss(self, exc: Exception | None) -> None:
        self._watch = self._heeded = None  # they know this transport: no cycle outlives the connection
        super()._deliver_loss(exc)

    def _peer_gone(self, exc: Exception) -> None:
        if self._state is OPEN:
            cut(self._lower)
            self.connection_lost(exc)

    def _below_resume(self) -> None:
        self._lower.resume_reading()

    def _below_abort(self) -> None:
        cut(self._lower)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._lower.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if not self.is_closing():  # uvloop raises once its socket is gone
            self._lower.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._lower.get_write_buffer_limits()
