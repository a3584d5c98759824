"""How long to wait before the next try: full jitter under a growing ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """Waits for one thing that is tried again and again.

    Full jitter: any wait from zero to the ceiling is as likely, so many clients of one dead server come back spread out
    and not in waves. Pure: `random` is a source of floats in [0, 1).
    """

    __slots__ = ("_base", "_cap", "_factor", "_floor", "_random", "_tries")

    def __init__(
        self,
        random: Callable[[], float],
        *,
        base: float = 1.0,
        cap: float = 60.0,
        factor: float = 2.0,
        floor: float = 0.05,
    ) -> None:
        if base <= 0 or cap < base or factor < 1 or floor < 0:
            msg = "a backoff needs 0 < base <= cap, factor >= 1 and floor >= 0"
            raise ValueError(msg)
        self._random = random
        self._base = base
        self._cap = cap
        self._factor = factor
        self._floor = floor  # even the luckiest draw must not spin
        self._tries = 0

    @property
    def tries(self) -> int:
        """How many waits were handed out since the last success."""
        return self._tries

    @property
    def ceiling(self) -> float:
        """The most that the next wait can be, in seconds."""
        ceiling = self._base
        for _ in range(self._tries):
            ceiling *= self._factor
            if ceiling >= self._cap:
                return self._cap
        return ceiling

    def next(self) -> float:
        """Seconds to wait before the next try."""
        wait = max(self._floor, self._random() * self.ceiling)
        self._tries += 1
        return wait

    def reset(self) -> None:
        """It worked: the next failure starts from the beginning."""
        self._tries = 0
