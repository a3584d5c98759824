"""Receive windows: how much a peer may send on a stream that nobody has read, and a budget over all of them.

A window starts small and doubles each time half of it was used up by a reader that keeps up, until `max_window` or until the
budget is spent. What we credit is never more than what was read plus that growth, so the sum of
all windows bounds the memory unread data can take.

First windows are not counted until somebody holds bytes in them: most streams are idle or read at once, and 10,000 of them
promise 640 MiB that nobody ever uses. A driver says what is held (`WindowBudget.hold`).
"""

from __future__ import annotations

from typing import Final

from penstock.protocol.errors import LocalProtocolError

FIRST_STEP: Final = 32 * 1024
"""Half of what an edge leaves uncredited towards a small connection (`Settings.stream_credit`): it would wait for ever for a
window so large that half of it is more than that."""
STEP_MOST: Final = 128 * 1024
"""A reader at a slow line's pace is credited in steps: each is a burst through every hop before it, and others wait behind it.
128 KiB are 10 ms at 100 Mbit/s; smaller ones cost frames, and no shorter waits."""


class WindowBudget:
    """Bytes that many connections share, passed to each of them: how far windows have grown, and what waits for slow readers.

    Over it windows stop growing, and an agent refuses streams; an edge, which opens them, asks before it does. Growth is
    counted by promise, not by use: the memory is needed only when readers stall, but then all at once.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = 256 * 1024 * 1024) -> None:
        self.limit = limit
        self.used = 0

    @property
    def is_spent(self) -> bool:
        """Whether no stream fits any more."""
        return self.used >= self.limit

    def take(self, amount: int) -> bool:
        """Reserve `amount` if that much is left."""
        if self.used + amount > self.limit:
            return False
        self.used += amount
        return True

    def hold(self, amount: int) -> None:
        """`amount` bytes wait for somebody; what is there cannot be refused any more."""
        self.used += amount

    def release(self, amount: int) -> None:
        """Give back what was taken or held."""
        self.used -= amount


class ReceiveWindow:
    """One stream's window. `credit` is what the peer may still send; `read` is what was read and not credited yet.

    Credit is renewed when half of the window was read, or `STEP_MOST`: sooner is a frame for little, later a peer that waits.
    """

    __slots__ = ("credit", "read", "size", "step")

    def __init__(self, size: int) -> None:
        self.size = size
        self.credit = size
        self.read = 0
        self.step = min(size // 2, FIRST_STEP)
        """Bytes read that are worth a frame."""

    def renew(self, max_size: int, budget: WindowBudget) -> int:
        """Credit what was read, and let the window grow if its reader keeps up; the increment to tell the peer."""
        size, increment = self.size, self.read
        unread = size - self.credit - increment
        if unread < 0:
            raise LocalProtocolError("more bytes were reported consumed than were received")
        # A reader that lags stands here with half of the window unread, time after time; one that keeps up with next to none.
        if unread * 4 < size < max_size:
            growth = min(size, max_size - size)
            if budget.take(growth):
                self.size = size + growth
                # The peer sees growth as credit, however little of the first window it uses.
                self.step = min(self.step + growth // 2, STEP_MOST)
                increment += growth
        self.credit += increment
        self.read = 0
        return increment
