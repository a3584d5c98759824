"""How often somebody may ask: a bucket for each credential and each address, and narrower ones where strangers knock.

Each process counts for itself, so several behind one name let through that many times as much. A bucket is one number, the
moment at which it is full again, so ten thousand of them are a megabyte; the one used longest ago is forgotten first.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from penstock.control.api.addresses import site

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.control.config import Rate, Rates

_REMEMBERED: Final = 10_000
_SIGN_IN: Final = frozenset({"/penstock/v1/login", "/penstock/v1/login/oidc", "/penstock/v1/me/password"})
_EXCHANGE: Final = "/v1/oauth/token"
_EDGES: Final = "/penstock/v1/edge/"
_A_REQUEST: Final = 16 << 10  # bytes of an answer that take about as long to make as a small request is served
_PROBES: Final = frozenset({"/healthz", "/readyz"})


@dataclass(frozen=True, slots=True)
class Taken:
    """What a bucket said."""

    whose: str
    """What the bucket counts, as in "too many requests …"."""
    limit: int
    remaining: int
    wait: float
    """Seconds until the next request would be served; 0 for one that is."""
    full_in: float
    """Seconds until as many as `limit` would be served again."""


@final
class Buckets:
    """Buckets of one size, by name."""

    def __init__(self, whose: str, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._whose = whose
        self._burst = rate.burst
        self._interval = 60.0 / rate.per_minute
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, name: str) -> Taken:
        """Take one out of the bucket `name`, or learn how long to wait; a refusal takes nothing."""
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now) + self._interval
        wait = full_at - now - self._burst * self._interval
        if wait > 1e-9:  # floats
            return Taken(self._whose, self._burst, 0, wait, full_at - now - self._interval)
        self._full_at[name] = full_at
        self._full_at.move_to_end(name)
        if len(self._full_at) > _REMEMBERED:
            self._full_at.popitem(last=False)
        left = self._burst - math.ceil((full_at - now) / self._interval - 1e-6)
        return Taken(self._whose, self._burst, left, 0.0, full_at - now)

    def charge(self, name: str, more: int) -> None:
        """Take `more` out of a bucket that one was taken from, and never more than half of what it holds."""
        if name in self._full_at:
            self._full_at[name] += min(more, self._burst // 2) * self._interval


@final
class RequestRates:
    """The buckets a request passes, narrow ones first."""

    def __init__(self, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        def buckets(whose: str, rate: Rate | None) -> Buckets | None:
            return None if rate is None else Buckets(whose, rate, clock)

        self._sign_ins = buckets("to sign in from this address", rates.sign_in)
        self._exchanges = buckets("for a token from this address", rates.exchange)
        self._addresses = buckets("from this address", rates.address)
        self._keys = buckets("with this credential", rates.key)

    def take(self, method: str, path: str, address: str | None, credential: str | None) -> Taken | None:
        """The first refusal; else what the credential's bucket said, or None where nobody counted."""
        if path in _PROBES:
            return None
        place = site(address)
        narrow = None
        if method == "POST":
            narrow = self._sign_ins if path in _SIGN_IN else self._exchanges if path == _EXCHANGE else None
        for buckets in (narrow, self._addresses):
            if buckets is not None and (taken := buckets.take(place)).wait:
                return taken
        if credential is None or self._keys is None:
            return None
        return self._keys.take(_name(credential))

    def answered(self, path: str, credential: str | None, size: int) -> None:
        """Somebody got so many bytes: a page of a thousand costs what as many small requests do, edges' pages apart."""
        if credential is not None and self._keys is not None and size >= _A_REQUEST and not path.startswith(_EDGES):
            self._keys.charge(_name(credential), size // _A_REQUEST)


def _name(credential: str) -> str:
    return hashlib.sha256(credential.encode()).hexdigest()
