"""A protocol that writes down what a transport does to it, and lets tests wait for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0


class Recorder(asyncio.Protocol):
    """calls: the names of the calls in order (repeated data_received once). received: all bytes. lost: the loss."""

    def __init__(self, *, pause_after: int | None = None, on_data: Callable[[bytes], None] | None = None) -> None:
        self.calls: list[str] = []
        self.received = bytearray()
        self.transport: Any = None
        self.loss: list[Exception | None] = []
        self.is_full = False
        self.pause_after = pause_after
        self.on_data = on_data
        self.delivered_while_paused = 0
        self.delivered_after_end = 0
        self._changed = asyncio.Event()

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._note("connection_made")

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_reading():
            self.delivered_while_paused += len(data)
        if self.loss or "eof_received" in self.calls:
            self.delivered_after_end += len(data)
        self.received += data
        if self.pause_after is not None and len(self.received) >= self.pause_after:
            self.pause_after = None
            self.transport.pause_reading()
        self._note("data_received")
        if self.on_data is not None:
            self.on_data(data)

    def eof_received(self) -> None:
        self._note("eof_received")

    def connection_lost(self, exc: Exception | None) -> None:
        self.loss.append(exc)
        self._note("connection_lost")

    def pause_writing(self) -> None:
        self.is_full = True
        self._note("pause_writing")

    def resume_writing(self) -> None:
        self.is_full = False
        self._note("resume_writing")

    def _note(self, call: str) -> None:
        if not (call == "data_received" and self.calls and self.calls[-1] == call):
            self.calls.append(call)
        self._changed.set()

    # --- for tests --------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> Exception | None:
        """What the one `connection_lost` said."""
        assert len(self.loss) == 1, f"connection_lost was called {len(self.loss)} times"
        return self.loss[0]

    async def until(self, condition: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Wait until `condition()` holds; it is asked after each call."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_received(self, size: int, timeout: float = PATIENCE) -> None:
        await self.until(lambda: len(self.received) >= size or self.loss, timeout)
        assert len(self.received) >= size, f"lost after {len(self.received)} of {size} bytes: {self.loss}"

    async def until_lost(self, timeout: float = PATIENCE) -> Exception | None:
        await self.until(lambda: self.loss, timeout)
        return self.lost

    async def until_writable(self, timeout: float = PATIENCE) -> None:
        await self.until(lambda: not self.is_full or self.loss, timeout)


async def settle(turns: int = 20) -> None:
    """Let the loop run everything that is ready, a few times over; for asserting that something does *not* happen."""
    for _ in range(turns):
        await asyncio.sleep(0)
