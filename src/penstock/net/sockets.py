"""What is set on sockets, so that neither the loop nor the kernel takes more at once than can still be put in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any, Final
from weakref import WeakKeyDictionary

RECORD: Final = 16_384  # RFC 8446 5.1: the most plaintext a TLS record holds
_AT_ONCE: Final = 4  # records: some 64 KiB are handed on at a time everywhere here
READ_MOST: Final = _AT_ONCE * (RECORD + 22)  # as TLS 1.3 wraps them; with a fifth, torn one each read would be two
PLAIN_MOST: Final = _AT_ONCE * RECORD  # of what TLS is put around
FRAMED_MOST: Final = _AT_ONCE * (RECORD - 9)  # of what goes into a link's frames first, each of which fills a record
UNSENT_MOST: Final = 128 * 1024  # 1 ms at 1 Gbit/s, 10 at 100 Mbit/s; and no network falls idle between two turns of a loop
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; Python has no name for it before 3.13


def peer_of(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """Who is at the other end. None where that cannot be said any more: uvloop asks the socket, also once it is closed."""
    try:
        peer: Any = transport.get_extra_info("peername")
    except (OSError, ValueError):
        return None
    return (str(peer[0]), int(peer[1])) if peer and not isinstance(peer, str | bytes) else None


class BoundedReader(asyncio.BufferedProtocol):
    """A protocol that a socket feeds at most its room's length at a time, in turns with all other sockets, on any loop.

    So much a reader that pauses may already have in hand. CPython's transports read up to 256 KiB of their own accord, and so
    does uvloop's, which reads on, up to 32 times, as long as each read fills its buffer: 8 MB of one download, with TLS
    and all, before anybody else's few bytes are looked at.
    """

    __slots__ = ()

    _room: memoryview
    """`room_of` the loop, or its beginning: what is read stands there until `buffer_updated` returns."""

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - whatever the loop would like
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        if nbytes == len(self._room):
            self._take_turns()
        self.data_received(bytes(self._room[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """What `asyncio.Protocol` calls so: transports that are no sockets call it themselves."""
        raise NotImplementedError

    def _take_turns(self) -> None:
        """Pause a socket, and read on in the next turn of the loop, unless somebody else has paused it by then."""
        raise NotImplementedError


_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def room_of(loop: asyncio.AbstractEventLoop, most: int = READ_MOST) -> memoryview:
    """Where all sockets of a loop are read to: it runs one callback at a time, and nobody keeps what is there."""
    room = _rooms.get(loop)
    if room is None:
        room = _rooms[loop] = memoryview(bytearray(READ_MOST))
    return room[:most]


def bound_unsent(transport: asyncio.Transport) -> None:
    """Let the kernel take at most `UNSENT_MOST` that it cannot send yet, where it can be told so (Linux).

    Its buffer grows to megabytes behind a slow network, in the order they were written: a small frame behind a bulk one's
    would wait for all of them, whatever order our own queues keep.
    """
    below: Any = transport.get_extra_info("socket")
    if sys.platform == "linux" and below is not None and below.family in {socket.AF_INET, socket.AF_INET6}:
        with contextlib.suppress(OSError, ValueError):  # gone already
            below.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_MOST)
