"""Two transports joined in memory, under the contract of `penstock.net.transports`, with a wire that tests can spoil."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from penstock.net.transports import CLOSED, CLOSING, OPEN, StreamTransport

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class MemoryTransport(StreamTransport):
    """One end. What is written waits here until the other end reads, so a paused reader is felt as back-pressure.

    stall(): nothing leaves this end until go_on(). split: the other end receives pieces of at most so many bytes.
    tap(data): sees every piece that leaves. sent: how many bytes left.
    """

    def __init__(self, protocol: asyncio.BaseProtocol, *, high: int, low: int, split: int | None) -> None:
        super().__init__(protocol)
        self.peer: MemoryTransport
        self.split = split
        self.tap: Callable[[bytes], None] | None = None
        self.sent = 0
        self.most_queued = 0
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._high, self._low = high, low
        self._is_stalled = False
        self._is_scheduled = False
        self._ends = False

    # --- hooks ------------------------------------------------------------------------------------------------------

    def _below_write(self, data: bytes | bytearray | memoryview) -> None:
        self._queue.append(bytes(data))
        self._size += len(self._queue[-1])
        self.most_queued = max(self.most_queued, self._size)
        if self._size > self._high:
            self._choke()
        self._schedule()

    def _below_close(self) -> None:
        self._ends = True
        self._schedule()

    def _below_abort(self) -> None:
        self._drop()
        self._loop.call_soon(self.peer._lost, ConnectionResetError("the memory pair was aborted"))

    def _below_pause(self) -> None:
        pass  # the other end looks before it delivers

    def _below_resume(self) -> None:
        self.peer._schedule()

    # --- the wire ---------------------------------------------------------------------------------------------------

    def stall(self) -> None:
        self._is_stalled = True

    def go_on(self) -> None:
        self._is_stalled = False
        self._schedule()

    def cut(self) -> None:
        """The wire breaks: both ends are lost."""
        for end in (self, self.peer):
            end._drop()
            end._lost(ConnectionResetError("the memory pair was cut"))

    def _drop(self) -> None:
        self._queue.clear()
        self._size = 0

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_scheduled = False
        if self._is_stalled or self._state is CLOSED:
            return
        if self._queue:
            if self.peer._paused and self.peer._state is OPEN:
                return
            piece = self._queue.popleft()
            if self.split is not None and len(piece) > self.split:
                self._queue.appendleft(piece[self.split :])
                piece = piece[: self.split]
            self._size -= len(piece)
            self.sent += len(piece)
            if self.tap is not None:
                self.tap(piece)
            self.peer._feed(piece)
            if self._size <= self._low:
                self._unchoke()
            self._schedule()
        elif self._ends and self._state is CLOSING:
            self.peer._feed_eof()
            self._lost(None)

    # --- information ------------------------------------------------------------------------------------------------

    def get_write_buffer_size(self) -> int:
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65_536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return "memory" if name == "peername" else default


def memory_pair(
    a: asyncio.BaseProtocol, b: asyncio.BaseProtocol, *, high: int = 65_536, low: int = 16_384, split: int | None = None
) -> tuple[MemoryTransport, MemoryTransport]:
    """Both ends, open: `connection_made` has been called."""
    one = MemoryTransport(a, high=high, low=low, split=split)
    two = MemoryTransport(b, high=high, low=low, split=split)
    one.peer, two.peer = two, one
    one._opened()
    two._opened()
    return one, two
