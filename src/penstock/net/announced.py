"""A connection that a load balancer hands over: its PROXY protocol header is read before anything else is believed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from penstock.net.transports import cut
from penstock.protocol import proxy_protocol
from penstock.protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable


class ReadsAnnouncement(asyncio.Protocol):
    """The protocol of a fresh socket until its header is here; then `on_read(source, rest)` takes the transport over.

    What is no header, is late or ends early is cut, after `on_failed(exc)`: it speaks no TLS yet, so there is nobody to tell.
    """

    __slots__ = ("_buffer", "_on_failed", "_on_read", "_timer", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        timeout: float,
        on_read: Callable[[tuple[str, int] | None, bytes], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._transport = transport
        self._on_read = on_read
        self._on_failed = on_failed
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(timeout, self._timed_out)

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            return
        self._buffer += data
        try:
            announced = proxy_protocol.parse(self._buffer)
        except RemoteProtocolError as exc:
            self._fail(exc)
            return
        if announced is not None:
            self._stop()
            self._on_read(announced.source, self._buffer[announced.end :])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._fail(exc or ConnectionResetError("the connection ended within its PROXY protocol header"))

    def _timed_out(self) -> None:
        self._fail(TimeoutError("the PROXY protocol header took too long"))

    def _fail(self, exc: Exception) -> None:
        self._stop()
        self._on_failed(exc)
        cut(self._transport)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
