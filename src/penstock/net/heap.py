"""When the garbage collector of a role looks at its heap, and when what a burst needed goes back to the system.

Reference counts free everything on the data path: its objects form no cycles. What the collector could still find is little,
and what it looks at is every stream there is: a full collection held the loop for 151 ms at 3,000 of them. So what a role
built to start is never looked at again, and what lives long only on a schedule, not whenever the number of streams grows.

What was freed the C library keeps, where anything that still lives lies above it: 300 MB after 200 KB on each of 5,000 streams
at once. Giving it back takes it some 0.1 to 0.3 ms a MB, in which the loop stands; so that is done when the process is quiet.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.telemetry.pauses import PAUSES

if TYPE_CHECKING:
    from collections.abc import Callable

_YOUNG: Final = 10_000
"""New containers between two looks at the young ones; at Python's 700 the opening of a few dozen streams is one."""
_NEVER: Final = 1_000_000_000
_INTERVAL: Final = 600.0
"""Seconds between full collections: control connections and reloads leave a few cycles an hour."""
_LOOK: Final = 2.0
"""Seconds between two looks at what the process holds: they cost 30 µs."""
_QUIET: Final = 0.2
"""Of a processor since the last look: a busy process takes what was freed up again by itself."""
_WORTH: Final = 8 * 1024 * 1024
"""Bytes of growth since the last time: 2 ms of trimming."""


def settle() -> None:
    """The role has started: all that is there now is taken to live until its end.

    Nobody looks for what does not: of a control plane's 116,000 objects those are 554, and looking is 0.1 s of its CPU.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, _NEVER)
    PAUSES.watch()


def resume() -> None:
    """A program that is no single role has started, and is looked through as ever: `main` had put that off."""
    gc.set_threshold(_YOUNG, 10, 10)


async def tend(interval: float = _INTERVAL, look: float = _LOOK) -> None:
    """Collect everything every `interval` seconds, and give back what a burst has left, for ever."""
    surplus = Surplus(resident())
    release = _release()
    loop = asyncio.get_running_loop()
    due = loop.time() + interval
    while True:
        used, since = time.process_time(), loop.time()
        await asyncio.sleep(min(look, interval))
        now = loop.time()
        if now >= due:
            due = now + interval
            gc.collect()
        is_quiet = time.process_time() - used < _QUIET * (now - since)
        if release is not None and surplus.is_worth_it(resident(), is_quiet=is_quiet):
            release()
            surplus.released(resident())


class Surplus:
    """How far the process has grown beyond what it needed when memory was last given back. Pure; in bytes."""

    __slots__ = ("_least",)

    def __init__(self, held: int) -> None:
        self._least = held

    def is_worth_it(self, held: int, *, is_quiet: bool) -> bool:
        """Whether to give back what is free of `held`, where that is known."""
        if not held:
            return False
        self._least = min(self._least, held)
        return is_quiet and held - self._least >= _WORTH

    def released(self, held: int) -> None:
        """So much it holds now: all of it is in use."""
        self._least = held or self._least


def resident() -> int:
    """Bytes of memory this process has; 0 where the system does not say (no Linux), or there is no file left to ask with."""
    if sys.platform != "linux":
        return 0
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _release() -> Callable[[], object] | None:
    """The C library's own way; musl and others give back by themselves or not at all."""
    if sys.platform != "linux":
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)
