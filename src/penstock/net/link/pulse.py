"""Whether the other end of a link is still there: when it was heard last, and whether it owes the answer to a ping. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from penstock.net.link.limits import LinkLimits

_FRESH: Final = 0.5
"""Seconds in which one sign of life is enough: 15 questions in an interval, where a peer may ask a thousand."""


class Pulse:
    """Times are the loop's."""

    __slots__ = ("_asked", "_interval", "_is_owed", "_timeout", "heard")

    def __init__(self, limits: LinkLimits) -> None:
        self._interval = limits.ping_interval
        self._timeout = limits.ping_timeout
        self._is_owed = False
        self._asked = 0.0
        self.heard = 0.0
        """When bytes came last."""

    def begin(self, now: float) -> None:
        """The link is up."""
        self.heard = self._asked = now

    def asked(self, now: float) -> None:
        """A ping is on its way."""
        self._asked, self._is_owed = now, True

    def answered(self) -> None:
        """It came back."""
        self._is_owed = False

    def is_due(self, now: float) -> bool:
        """Whether it is time for the next ping, busy link or not."""
        return not self._is_owed and now - self._asked >= self._interval

    def is_worth_asking(self, now: float) -> bool:
        """Whether an answer would tell anything new."""
        return not self._is_owed and now - max(self.heard, self._asked) >= _FRESH

    def silence(self, now: float) -> float:
        """Seconds since a ping, or since the last byte behind it, without the answer that is owed; 0 where none is."""
        return max(0.0, now - max(self.heard, self._asked)) if self._is_owed else 0.0

    def is_gone(self, now: float) -> bool:
        """Whether it has been silent for too long."""
        return self.silence(now) >= self._timeout
