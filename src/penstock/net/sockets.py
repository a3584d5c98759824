"""What is set on sockets, so that neither the loop nor the kernel takes more at once than can still be put in order."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

READ_MOST: Final = 64 * 1024  # four TLS records: what is handed on at a time everywhere here
UNSENT_MOST: Final = 128 * 1024  # 1 ms at 1 Gbit/s, 10 at 100 Mbit/s; and no network falls idle between two turns of a loop
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; Python has no name for it before 3.13


def bound_reads(transport: asyncio.BaseTransport) -> None:
    """Let a socket deliver at most `READ_MOST` at once: so much a reader that pauses may already have in hand.

    CPython's transports read up to 256 KiB. uvloop's are as large and cannot be told.
    """
    if hasattr(transport, "max_size"):
        transport.max_size = READ_MOST  # pyright: ignore[reportAttributeAccessIssue]  # an attribute of asyncio's own class


def bound_unsent(transport: asyncio.Transport) -> None:
    """Let the kernel take at most `UNSENT_MOST` that it cannot send yet, where it can be told so (Linux).

    Its buffer grows to megabytes behind a slow network, in the order they were written: a small frame behind a bulk one's
    would wait for all of them, whatever order our own queues keep.
    """
    below: Any = transport.get_extra_info("socket")
    if sys.platform == "linux" and below is not None and below.family in {socket.AF_INET, socket.AF_INET6}:
        with contextlib.suppress(OSError, ValueError):  # gone already
            below.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_MOST)
