"""How many bytes a second a group of relays may move together: they wait where it is more, and nothing is dropped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

_LEAST_WAIT: Final = 0.005  # seconds: many small waits cost more than they smooth


class Metered(Protocol):
    """One direction of a relay."""

    def throttle(self) -> None:
        """Take no more from this side's peer."""
        ...

    def unthrottle(self) -> None:
        """Take again, as far as the other side does."""
        ...


class Bucket:
    """Fills at `rate` bytes a second, up to a second's worth; may be overdrawn by what was read already."""

    __slots__ = ("_at", "_level", "_loop", "_rate")

    def __init__(self, rate: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._rate = rate
        self._level = float(rate)
        self._at = self._loop.time()

    def take(self, amount: int) -> None:
        """`amount` bytes have passed."""
        self._fill()
        self._level -= amount

    @property
    def wait(self) -> float:
        """Seconds until it is not overdrawn any more; 0 where it is not."""
        self._fill()
        return max(0.0, -self._level / self._rate)

    def _fill(self) -> None:
        now = self._loop.time()
        self._level = min(self._rate, self._level + (now - self._at) * self._rate)
        self._at = now


class Meter:
    """Counts a group's bytes in every bucket that it is part of (its own, its organization's). All must have some left."""

    def __init__(self, buckets: Iterable[Bucket]) -> None:
        self._buckets = tuple(buckets)
        self._waiting: list[Metered] = []
        self._timer: asyncio.TimerHandle | None = None

    def moved(self, amount: int, side: Metered) -> None:
        """`side` has moved `amount` bytes; it may have to wait now."""
        for bucket in self._buckets:
            bucket.take(amount)
        if wait := self.wait:
            side.throttle()
            self._waiting.append(side)
            self._wake_in(wait)

    @property
    def wait(self) -> float:
        """Seconds until it may move on; 0 for at once."""
        return max(bucket.wait for bucket in self._buckets)

    def _wake_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(seconds, _LEAST_WAIT), self._wake)

    def _wake(self) -> None:
        self._timer = None
        if wait := self.wait:  # others of the larger group were quicker
            self._wake_in(wait)
            return
        waiting, self._waiting = self._waiting, []
        for side in waiting:
            side.unthrottle()
