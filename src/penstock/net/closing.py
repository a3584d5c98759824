"""Ending a transport so that the other side receives the end.

A TCP socket closed while the peer still sends answers with a reset, which destroys what was just written: a TLS alert,
the last bytes of a response. So we end our half, discard what still comes until the peer ends too, and only then let go.
All of it is bounded in time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from penstock.net.layered import LayeredTransport
from penstock.net.transports import StreamTransport, cut
from penstock.net.watch import acknowledged

if TYPE_CHECKING:
    from collections.abc import Callable

# A peer that has all we wrote answers our end within a round trip; two seconds cover a bad mobile link.
END_TIMEOUT: Final = 2.0
# A reader that is slow still gets everything; one that takes nothing at all for so long does not read any more.
STALL_TIMEOUT: Final = 30.0


def close_gently(
    transport: asyncio.Transport,
    *,
    timeout: float = END_TIMEOUT,
    stall_timeout: float = STALL_TIMEOUT,
    on_closed: Callable[[], None] | None = None,
) -> None:
    """Deliver what was written to `transport`, end it, discard what still comes, and let it go.

    Takes the transport over. After `timeout` seconds it is let go, unless what was written has not left yet: then it is
    cut once nothing at all has left for `stall_timeout` seconds. `on_closed` is called once, later, when it is gone.
    """
    ending = _Ending(transport, timeout, stall_timeout, on_closed)
    if transport.is_closing():
        # Its own close is under way (or past, and then nobody would tell us).
        asyncio.get_running_loop().call_soon(ending.connection_lost, None)
        return
    transport.set_protocol(ending)
    ending.start()


def taken(transport: asyncio.Transport) -> tuple[int, int]:
    """A value that changes as the peer takes what was written: what waits here, and what its system has acknowledged.

    Both, because systems hold megabytes on the way: a reader of some kilobytes a second moves the first only every few minutes.
    """
    is_own = isinstance(transport, LayeredTransport) or not isinstance(transport, StreamTransport)  # no link's, for all streams
    return transport.get_write_buffer_size(), acknowledged(transport) if is_own else 0


class _Ending(asyncio.Protocol):
    """The last owner of a transport."""

    __slots__ = ("_on_closed", "_stall", "_stalled_since", "_taken", "_timeout", "_timer", "_transport")

    def __init__(
        self, transport: asyncio.Transport, timeout: float, stall: float, on_closed: Callable[[], None] | None
    ) -> None:
        self._transport: Any = transport
        self._timeout = timeout
        self._stall = stall
        self._on_closed = on_closed
        self._taken = (0, 0)
        self._stalled_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._taken = taken(self._transport)
        self._stalled_since = loop.time()
        self._timer = loop.call_later(self._timeout, self._tick)
        if self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError:  # the peer reset the socket, and the loop has not told yet
                cut(self._transport)
                return
            self._transport.resume_reading()
        else:
            self._transport.close()  # a layer of ours, which ends gently by itself

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_taken = taken(self._transport)
        if not now_taken[0]:
            self._timer = None
            self._transport.close()
            return
        if now_taken != self._taken:
            self._taken = now_taken
            self._stalled_since = loop.time()
        if loop.time() - self._stalled_since >= self._stall:
            self._timer = None
            cut(self._transport)
            return
        self._timer = loop.call_later(self._timeout, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended no longer matters to anybody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed()
