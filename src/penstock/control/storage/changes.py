"""Waking those who wait for a change.

A wake-up is a hint to look at the feed's version, never the news itself: it may be spurious, and a change made by another
process comes without one, so waiters look again after an interval. On a database that can notify, its listener calls
`announce`, and nothing else changes.
"""

from __future__ import annotations

import asyncio


class Changes:
    """One flag that many wait for; each announcement wakes all who wait then."""

    def __init__(self) -> None:
        self._next = asyncio.Event()
        self.closed = False

    def announce(self) -> None:
        """Something may have changed."""
        woken, self._next = self._next, asyncio.Event()
        woken.set()

    def close(self) -> None:
        """Nothing is worth waiting for any more."""
        self.closed = True
        self.announce()

    def watch(self) -> asyncio.Event:
        """The event of the next announcement. Take it *before* looking at the version, or one between is missed."""
        return self._next
