"""What one organization and one tunnel may take of this edge, so that none takes what the others need.

Counted in this process, for streams that callers dial and for those that other edges pass on alike.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.meter import Bucket, Meter

if TYPE_CHECKING:
    from penstock.edge.config import ShareLimits
    from penstock.schema.edges import TunnelRecord

_FULL_RETRY: Final = 5
"""Seconds: streams that live end when their callers please, so that coming back at once is of no use."""
_BEHIND: Final = 1.0
"""Seconds of waiting bytes that new streams would wait behind: with more, they are refused."""
_MANY: Final = 1024  # tunnels looked at before it is worth looking for idle ones


class _Share:
    """What one group has taken."""

    __slots__ = ("_at", "_limits", "_tokens", "buckets", "meter", "streams")

    def __init__(self, limits: ShareLimits, now: float, within: _Share | None = None) -> None:
        self._limits = limits
        self._tokens = float(limits.burst)
        self._at = now
        self.streams = 0
        self.buckets = () if within is None else within.buckets
        if limits.bytes_per_second:
            self.buckets = (*self.buckets, Bucket(limits.bytes_per_second))
        self.meter = Meter(self.buckets) if self.buckets else None

    def check(self, whose: str, now: float) -> None:
        """Raises TunnelError where one stream more is too many."""
        if self.streams >= self._limits.streams:
            raise _limited(f"this {whose} has as many streams as it may have on this edge", _FULL_RETRY)
        tokens = self._filled(now)
        if tokens < 1:
            raise _limited(f"this {whose} opens streams faster than it may", (1 - tokens) / self._limits.streams_per_second)
        if self.meter is not None and (wait := self.meter.wait) > _BEHIND:
            raise _limited(f"this {whose} moves more bytes than it may", wait)

    def take(self, now: float) -> None:
        """One stream more."""
        self.streams += 1
        self._tokens = self._filled(now) - 1
        self._at = now

    def is_idle(self, now: float) -> bool:
        """Whether nothing is remembered of it that a new one would not have."""
        rested = self._filled(now) >= self._limits.burst
        return not self.streams and rested and (self.meter is None or not self.meter.wait)

    def _filled(self, now: float) -> float:
        return min(self._limits.burst, self._tokens + (now - self._at) * self._limits.streams_per_second)


class Seat:
    """One stream's place; released once, when it is over or was not opened."""

    __slots__ = ("_shares", "meter")

    def __init__(self, shares: tuple[_Share, ...], meter: Meter | None) -> None:
        self._shares = shares
        self.meter = meter
        """Counts the stream's bytes; None where they are not limited."""

    def release(self) -> None:
        """It is free again."""
        shares, self._shares = self._shares, ()
        for share in shares:
            share.streams -= 1


class Quotas:
    """All shares of one edge process."""

    def __init__(self, *, organization: ShareLimits, tunnel: ShareLimits) -> None:
        self._organization = organization
        self._tunnel = tunnel
        self._organizations: dict[str, _Share] = {}
        self._tunnels: dict[str, _Share] = {}
        self._prune_at = _MANY

    def take(self, tunnel: TunnelRecord) -> Seat:
        """A place for one more stream to this tunnel. TunnelError (429, with when to come again) where there is none."""
        now = asyncio.get_running_loop().time()
        organization, own = self._shares(tunnel, now)
        organization.check("organization", now)
        own.check("tunnel", now)
        organization.take(now)
        own.take(now)
        return Seat((organization, own), own.meter)

    def _shares(self, tunnel: TunnelRecord, now: float) -> tuple[_Share, _Share]:
        """Of its organization, and its own."""
        organization = self._organizations.get(tunnel.organization_id)
        if organization is None:  # there are few, and they stay
            organization = self._organizations[tunnel.organization_id] = _Share(self._organization, now)
        own = self._tunnels.get(tunnel.id)
        if own is None:
            self._prune(now)
            own = self._tunnels[tunnel.id] = _Share(self._tunnel, now, organization)
        return organization, own

    def _prune(self, now: float) -> None:
        """Tunnels come and go: those that nothing is remembered of are forgotten."""
        if len(self._tunnels) >= self._prune_at:
            self._tunnels = {key: share for key, share in self._tunnels.items() if not share.is_idle(now)}
            self._prune_at = max(_MANY, 2 * len(self._tunnels))


def _limited(public: str, retry_after: float) -> TunnelError:
    return TunnelError(TunnelErrorCode.RATE_LIMITED, public, retry_after=max(1, math.ceil(retry_after)))
