"""Streams that were closed here and are not over yet: what they still send, and for how long their peers may. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class _Closing:
    queued: int
    deadline: float


class Overdue(NamedTuple):
    """Ids of streams to be reset."""

    closing: list[int]
    """They stood still with bytes to send."""
    lingering: list[int]
    """Their peers went on sending."""


class Endings:
    """First a closed stream sends what it was given (closing), then its peer comes to its own end (lingering)."""

    __slots__ = ("_close_timeout", "_closing", "_linger", "_lingering")

    def __init__(self, *, close_timeout: float, linger: float) -> None:
        self._close_timeout = close_timeout
        self._linger = linger
        self._closing: dict[int, _Closing] = {}
        self._lingering: dict[int, float] = {}

    def is_closing(self, stream_id: int) -> bool:
        """Whether it still has bytes to send."""
        return stream_id in self._closing

    def is_lingering(self, stream_id: int) -> bool:
        """Whether only its peer's end is missing."""
        return stream_id in self._lingering

    def closing(self, stream_id: int, queued: int, now: float) -> None:
        """It was closed with `queued` bytes to send."""
        self._closing[stream_id] = _Closing(queued, now + self._close_timeout)

    def lingering(self, stream_id: int, now: float) -> None:
        """All was sent; its peer has not ended."""
        self._lingering[stream_id] = now + self._linger

    def forget(self, stream_id: int) -> None:
        """It is over."""
        self._closing.pop(stream_id, None)
        self._lingering.pop(stream_id, None)

    def clear(self) -> None:
        """All are over."""
        self._closing.clear()
        self._lingering.clear()

    def overdue(self, now: float, queued: Callable[[int], int]) -> Overdue:
        """Which have taken too long; those that move get more time. `queued` tells what a stream has left to send."""
        stuck: list[int] = []
        for stream_id, closing in self._closing.items():
            left = queued(stream_id)
            if left < closing.queued:
                closing.queued, closing.deadline = left, now + self._close_timeout
            elif now >= closing.deadline:
                stuck.append(stream_id)
        return Overdue(stuck, [stream_id for stream_id, deadline in self._lingering.items() if now >= deadline])
