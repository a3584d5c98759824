"""Notices that the peer of a paused socket has gone.

A socket that is not read shows neither FIN nor RST, so a caller that cancels a stalled upload would hold its stream, and
the upstream its request, until the stall ends. While a socket is paused its TCP state is looked at now and then, where the
system tells it (Linux); elsewhere the end is seen when reading resumes.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# A pause shorter than this is ordinary back-pressure; a cancellation noticed after it is still "at once" to a person.
INTERVAL: Final = 0.05
# A FIN behind unread bytes may be a clean end in order, so it waits for the reader, but only so long for one that stands.
FIN_PATIENCE: Final = 30.0

# linux/include/net/tcp_states.h; the state is the first byte of struct tcp_info.
_TCP_CLOSE: Final = 7
_TCP_CLOSE_WAIT: Final = 8
# linux/include/uapi/linux/tcp.h: a 64-bit number behind 8 bytes, 24 words and two 64-bit rates; shorter answers lack it.
_BYTES_ACKED: Final = slice(120, 128)
_CAN_LOOK: Final = sys.platform == "linux"


class PauseWatch:
    """Looks at one socket transport while it is paused; `on_gone(exc)` is called at most once.

    `arm()` at each pause; it costs nothing while armed, and disarms itself when it finds the transport reading or closing.
    `progress()` is a value that changes when the reader has taken something, though not enough for reading to go on.
    """

    __slots__ = ("_armed", "_fin", "_interval", "_on_gone", "_patience", "_progress", "_seen", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        on_gone: Callable[[Exception], None],
        *,
        interval: float = INTERVAL,
        fin_patience: float = FIN_PATIENCE,
        progress: Callable[[], object] | None = None,
    ) -> None:
        self._transport = transport
        self._on_gone = on_gone
        self._interval = interval
        self._patience = fin_patience
        self._armed = False
        self._progress = progress
        self._seen: object = None  # of `progress`, at the last look
        self._fin = 0.0  # since when a FIN has been there and nothing was taken, on the loop's clock

    def arm(self) -> None:
        """The transport has been paused: there was reading before that, whether or not a look found it."""
        self._fin = 0.0
        self._look_later()

    def _look_later(self) -> None:
        if not self._armed and _CAN_LOOK:
            self._armed = True
            asyncio.get_running_loop().call_later(self._interval, self._look)

    def _look(self) -> None:
        self._armed = False
        if self._transport.is_closing() or self._transport.is_reading():
            self._fin = 0.0
            return
        state = _tcp_state(self._transport)
        if state is None:
            return
        now = asyncio.get_running_loop().time()
        if state == _TCP_CLOSE:
            self._on_gone(ConnectionResetError("the peer reset the connection while it was paused"))
            return
        if state == _TCP_CLOSE_WAIT:
            seen = self._progress() if self._progress is not None else None
            if seen != self._seen:
                self._seen, self._fin = seen, 0.0
            self._fin = self._fin or now
            if now - self._fin >= self._patience:
                self._on_gone(ConnectionAbortedError("the peer left while the connection was paused"))
                return
        self._look_later()


def acknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the system of a socket's peer has acknowledged; 0 where that is not told."""
    info = _tcp_info(transport, _BYTES_ACKED.stop) or b""
    return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)


def _tcp_state(transport: asyncio.Transport) -> int | None:
    info = _tcp_info(transport, 1)
    return info[0] if info else None


def _tcp_info(transport: asyncio.Transport, size: int) -> bytes | None:
    below: Any = transport.get_extra_info("socket")
    if not _CAN_LOOK or below is None or below.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    try:
        info: bytes = below.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except (OSError, ValueError):  # closed; ValueError is what uvloop says
        return None
    return info
