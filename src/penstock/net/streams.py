"""A transport for coroutines: read, write, close. For heads, tests and clients; data paths use protocols."""

from __future__ import annotations

import asyncio
from typing import Final

from penstock.net.closing import END_TIMEOUT, STALL_TIMEOUT, close_gently
from penstock.net.transports import cut

# What waits unread before the transport is paused; one delivery from below may go over it.
LIMIT: Final = 65_536


class ByteStream(asyncio.Protocol):
    """The protocol of a transport whose user awaits. One reader and one writer at a time; timeouts are the user's."""

    def __init__(self, *, limit: int = LIMIT) -> None:
        self._limit = limit
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._ended = False  # nothing more comes
        self._error: Exception | None = None
        self._is_full = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._opened = asyncio.get_running_loop().create_future()

    @classmethod
    def over(cls, transport: asyncio.Transport, *, initial: bytes = b"", limit: int = LIMIT) -> ByteStream:
        """Take over an open transport, paused or not; `initial` is what was already read from it."""
        stream = cls(limit=limit)
        stream._buffer += initial
        transport.set_protocol(stream)
        stream.connection_made(transport)
        if transport.is_closing():
            stream.connection_lost(ConnectionResetError("the connection was gone before it was taken over"))
        elif len(initial) < limit:
            transport.resume_reading()
        return stream

    @property
    def transport(self) -> asyncio.Transport:
        """The transport; after `connection_made`."""
        if self._transport is None:
            msg = "the stream is not connected yet"
            raise RuntimeError(msg)
        return self._transport

    @property
    def is_readable(self) -> bool:
        """Whether `read` would return, or raise, at once: bytes wait, or the end has come."""
        return bool(self._buffer) or self._ended

    async def opened(self) -> None:
        """Wait for the connection (a TLS handshake, say); raises what `fail` was given."""
        try:
            await asyncio.shield(self._opened)
        finally:
            del self  # a failure's traceback holds this frame, and the stream holds the failure

    def fail(self, exc: Exception) -> None:
        """The connection will never be made: the `on_failed` of `start_tls`."""
        if not self._opened.done():
            self._opened.set_exception(exc)
            self._opened.exception()  # seen: the stream may be dropped without a waiter
        self.connection_lost(exc)

    async def read(self, max_bytes: int) -> bytes:
        """One byte or more; b"" at the clean end. Raises the loss (an OSError, mostly) at an unclean one."""
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if len(self._buffer) < self._limit and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, and wait while the transport has more than it wants. Raises ConnectionError after the end."""
        if self._error is not None:
            raise self._error
        if self._ended or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the stream has ended")
        self._transport.write(data)
        while self._is_full:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self._error is not None:
            raise self._error

    async def aclose(self, *, timeout: float = END_TIMEOUT, stall_timeout: float = STALL_TIMEOUT) -> None:
        """Deliver what was written, end cleanly and wait until the transport is gone; bounded as `close_gently`."""
        transport, self._transport = self._transport, None
        self._ended = True
        self._wake()
        if transport is None or transport.is_closing():
            return
        gone = asyncio.get_running_loop().create_future()
        close_gently(transport, timeout=timeout, stall_timeout=stall_timeout, on_closed=lambda: _settle(gone))
        await gone

    def abort(self) -> None:
        """Cut: overtakes what was written."""
        if self._transport is not None:
            cut(self._transport)

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # pyright: ignore[reportAttributeAccessIssue]  # asyncio's own signature is the wider one
        _settle(self._opened)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= self._limit and self._transport is not None:
            self._transport.pause_reading()
        _settle(self._reader)

    def eof_received(self) -> None:
        self._ended = True
        _settle(self._reader)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._ended:
            self._error = exc
            self._buffer.clear()  # an unclean end drops what was queued
        self._ended = True
        self._is_full = False
        self._wake()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        _settle(self._writer)

    def _wake(self) -> None:
        _settle(self._reader)
        _settle(self._writer)


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
