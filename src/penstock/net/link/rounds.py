"""What a link looks at every few seconds, and what is due then: is its peer there, what takes too long, who is in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.net.link.pulse import Pulse
from penstock.net.link.stalls import Stalls

if TYPE_CHECKING:
    from penstock.net.link.endings import Endings
    from penstock.net.link.limits import LinkLimits
    from penstock.protocol.http2 import Connection, Settings

_TICK: Final = 2.5
"""How often deadlines are looked at; each is late by at most this."""


class Due(NamedTuple):
    """What a round found; ids of streams in the lists."""

    is_gone: bool
    """The peer answers no pings: the link is over, and the rest is empty."""
    is_ping_due: bool
    stuck: list[int]
    """They were closed, and the peer takes no more of what they have to send."""
    lingering: list[int]
    """They were ended here, and their peers go on sending."""
    stalled: list[int]
    """Their readers stand still, and keep a small connection window from all others."""


class Rounds:
    """The clock of a link; it reads none itself: times are the loop's."""

    __slots__ = ("_counted", "_endings", "_flood_interval", "_http", "_small_window", "_stalls", "every", "pulse")

    def __init__(self, limits: LinkLimits, settings: Settings, http: Connection, endings: Endings) -> None:
        self.every = min(_TICK, limits.ping_interval, limits.ping_timeout, limits.flood_interval)
        """Seconds from one round to the next."""
        self.pulse = Pulse(limits)
        self._http = http
        self._endings = endings
        self._stalls = Stalls(limits.stall_timeout)
        self._small_window = settings.small_connection_window
        self._flood_interval = limits.flood_interval
        self._counted = 0.0

    def begin(self, now: float) -> None:
        """The link is up."""
        self._counted = now
        self.pulse.begin(now)

    def go(self, now: float) -> Due:
        """Look at everything."""
        if self.pulse.is_gone(now):
            return Due(is_gone=True, is_ping_due=False, stuck=[], lingering=[], stalled=[])
        if now - self._counted >= self._flood_interval:
            self._counted = now
            self._http.begin_interval()
        stuck, lingering = self._endings.overdue(now, self._http.queued)
        return Due(
            is_gone=False, is_ping_due=self.pulse.is_due(now), stuck=stuck, lingering=lingering, stalled=self._stalled(now)
        )

    def _stalled(self, now: float) -> list[int]:
        """A stock agent's connection window is small: readers that stall must not keep it from all others."""
        window = self._http.peer_connection_window
        if window >= self._small_window or self._http.uncredited * 2 < window:
            self._stalls.clear()
            return []
        return self._stalls.in_the_way(now, self._http.holders(), window)
