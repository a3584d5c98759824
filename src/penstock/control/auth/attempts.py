"""Failed sign-ins, counted an address: a guesser gets a few tries, and the rest of the quarter of an hour to think."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from datetime import datetime

_TRIES: Final = 10
_WINDOW_SECONDS: Final = 900.0
_REMEMBERED: Final = 10_000  # addresses; the one tried longest ago is forgotten first


@final
class Attempts:
    """Of one process; two processes give a guesser twice as many tries, which is still nothing."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, list[datetime]] = OrderedDict()

    def wait(self, email: str, now: datetime) -> float:
        """Seconds until somebody may try this address again; 0 for now."""
        recent = self._recent(email, now)
        return _WINDOW_SECONDS - (now - recent[-_TRIES]).total_seconds() if len(recent) >= _TRIES else 0.0

    def begin(self, email: str, now: datetime) -> None:
        """One more try: counted before it is known how it ends, or many at once would all be the first."""
        self._failures[email] = [*self._recent(email, now), now]
        self._failures.move_to_end(email)
        if len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, email: str) -> None:
        """The last try was a right one, and does not count."""
        if begun := self._failures.get(email):
            begun.pop()

    def _recent(self, email: str, now: datetime) -> list[datetime]:
        return [at for at in self._failures.get(email, ()) if (now - at).total_seconds() < _WINDOW_SECONDS]
