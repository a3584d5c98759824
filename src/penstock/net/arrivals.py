"""Connections that have not said yet what they want: bounded in number, and the one that dawdles gives way to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.net.transports import cut

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Arrivals:
    """At most `limit` connections; one more cuts the one that has been here longest.

    Whoever comes to talk is through in milliseconds. Whoever holds sockets open on purpose stays until a time-out, so under
    such an attack it is the attacker's connections that are the oldest, and honest ones get in.
    """

    def __init__(self, limit: int, on_displaced: Callable[[], object] = lambda: None) -> None:
        self._limit = limit
        self._on_displaced = on_displaced
        self._here: dict[asyncio.Transport, None] = {}  # in the order of their coming

    def __len__(self) -> int:
        return len(self._here)

    def enter(self, transport: asyncio.Transport) -> None:
        """It has come."""
        if len(self._here) >= self._limit:
            longest = next(iter(self._here))
            del self._here[longest]
            self._on_displaced()
            cut(longest)
        self._here[transport] = None

    def leave(self, transport: asyncio.Transport) -> None:
        """It has said what it wants, or is gone; also of one that is not here."""
        self._here.pop(transport, None)
