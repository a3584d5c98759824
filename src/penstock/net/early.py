"""A dialled connection on which the peer spoke before it could be paused.

uvloop begins to read once `connection_made` has returned, whatever that said, and who dials is called only after it. What
comes in between, an end too, is kept here for the connection's owner. Nearly no peer of ours speaks first, so nearly all
connections stay what they are, and those that do not pay for one layer more.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from penstock.net.closing import close_gently
from penstock.net.layered import LayeredTransport
from penstock.net.transports import Parked

if TYPE_CHECKING:
    import asyncio


class EarlyBytes(Parked):
    """Parks a connection and keeps what comes although it is paused: at most what one turn of the loop reads."""

    __slots__ = ("data", "ended")

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.ended = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.ended = True
        return True  # else the transport would close, and what came with the end be lost


def parked(transport: asyncio.Transport, early: EarlyBytes) -> asyncio.Transport:
    """The connection, paused at last, with what came early in front of the rest."""
    if transport.is_closing():
        return transport
    transport.pause_reading()
    return _Primed(transport, early) if early.data or early.ended else transport


class _Primed(LayeredTransport):
    """Delivers what came early, then whatever its lower does."""

    __slots__ = ()

    def __init__(self, lower: asyncio.Transport, early: EarlyBytes) -> None:
        super().__init__(lower, Parked())
        lower.set_protocol(self)
        self._opened()
        if early.data:
            self._inbox = deque((bytes(early.data),))
        if early.ended:
            self._feed_eof()

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def eof_received(self) -> bool:
        self._feed_eof()
        return True  # what is still written goes out before our own end

    def _below_write(self, data: bytes | bytearray | memoryview) -> None:
        self._lower.write(data)

    def _below_close(self) -> None:
        close_gently(self._lower, on_closed=self._gone)

    def _gone(self) -> None:
        self._lost(None)
