"""One of an agent's links, between tries: how long it waits. Pure: chance is passed in, time is the caller's."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from penstock.net.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.agent.config import AgentLimits

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
    """One link's waits."""

    def __init__(self, index: int, limits: AgentLimits, random: Callable[[], float]) -> None:
        self.index = index
        """connIndex on the wire and in the log."""
        self.attempts = 0
        """Tries since the last registration; the edge is told."""
        self._backoff = Backoff(random, base=limits.backoff_first, cap=limits.backoff_most)
        refused = limits.refused_wait
        # From half the ceiling up: a token that is refused is healed by people.
        self._refused = Backoff(random, base=refused, cap=refused, floor=refused / 2)

    def wait_after(self, outcome: Outcome, *, lasted: float = 0.0, retry_after: float = 0.0) -> float:
        """Seconds to wait before the next try.

        lasted: seconds the link was registered. retry_after: what the edge asked for, a floor.
        """
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
