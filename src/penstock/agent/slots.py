"""One of an agent's links, between tries: which edge it dials next, and when. Pure: chance is passed in, time is the caller's.

Slots start one edge apart, so that four links are spread over as many edges as there are, and a failure moves a slot on,
so that no edge that is gone holds one.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from penstock.net.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.config.types import HostPort

# A link that fell at once after it registered is a failing edge, not a passing cut: its waits go on growing.
_STABLE_SECONDS: Final = 5.0


class Outcome(Enum):
    """How a try ended."""

    UNREACHABLE = auto()
    """No TCP, no TLS, no answer to the registration."""
    REFUSED = auto()
    """The edge did not accept the token: no other edge will, so the wait is long from the start."""
    LOST = auto()
    """It was registered, and fell."""


class Slot:
    """One link's next try."""

    def __init__(
        self,
        index: int,
        edges: Sequence[HostPort],
        *,
        offset: int,
        random: Callable[[], float],
        first: float,
        most: float,
        refused: float,
    ) -> None:
        self.index = index
        """connIndex on the wire and in the log."""
        self.attempts = 0
        """Tries since the last registration; the edge is told."""
        self._edges = tuple(edges)
        self._next = (offset + index) % len(self._edges)
        self._backoff = Backoff(random, base=first, cap=most)
        # From half the ceiling up: a token that is refused is healed by people.
        self._refused = Backoff(random, base=refused, cap=refused, floor=refused / 2)

    @property
    def edge(self) -> HostPort:
        """Where the next try goes."""
        return self._edges[self._next]

    def wait_after(self, outcome: Outcome, *, lasted: float = 0.0, retry_after: float = 0.0) -> float:
        """Seconds to wait before the next try, which goes to the next edge.

        lasted: seconds the link was registered. retry_after: what the edge asked for, a floor.
        """
        self._next = (self._next + 1) % len(self._edges)
        match outcome:
            case Outcome.REFUSED:
                self.attempts += 1
                return max(retry_after, self._refused.next())
            case Outcome.UNREACHABLE:
                self.attempts += 1
                return max(retry_after, self._backoff.next())
            case Outcome.LOST:
                self.attempts = 0
                if lasted >= _STABLE_SECONDS:
                    self._backoff.reset()
                return self._backoff.next()
