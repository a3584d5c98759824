"""When the garbage collector of a role looks at its heap.

Reference counts free everything on the data path: its objects form no cycles. What the collector could still find is little,
and what it looks at is every stream there is: a full collection held the loop for 151 ms at 3,000 of them. So what a role
built to start is never looked at again, and what lives long only on a schedule, not whenever the number of streams grows.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

_YOUNG: Final = 10_000
"""New containers between two looks at the young ones; at Python's 700 the opening of a few dozen streams is one."""
_NEVER: Final = 1_000_000_000
_INTERVAL: Final = 600.0
"""Seconds between full collections: control connections and reloads leave a few cycles an hour."""


def settle() -> None:
    """The role has started: all that lives now is taken to live until its end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, _NEVER)


async def tend(interval: float = _INTERVAL) -> None:
    """Collect everything every `interval` seconds, for ever."""
    while True:
        await asyncio.sleep(interval)
        gc.collect()
