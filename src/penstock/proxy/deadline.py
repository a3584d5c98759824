"""One timer an object, moved without touching the loop's heap: most deadlines are moved long before they pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_NEVER: Final = float("inf")


class Deadline:
    """Calls `call` once, `seconds` after the last `set`, unless it was cleared. `close` before letting go of it."""

    __slots__ = ("_at", "_call", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call: Callable[[], None] | None = call
        self._at = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Pass after `seconds` from now; 0 is never."""
        if not seconds or self._call is None:
            self._at = _NEVER
            return
        self._at = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= self._at:
                return  # it will look again when it fires
            self._timer.cancel()
        self._timer = self._loop.call_at(self._at, self._fire)

    def clear(self) -> None:
        """Do not pass."""
        self._at = _NEVER

    def close(self) -> None:
        """Never again; lets go of the callback, which usually is its owner's."""
        self._call = None
        self._at = _NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if self._at == _NEVER or self._call is None:
            return
        if self._loop.time() < self._at:
            self._timer = self._loop.call_at(self._at, self._fire)
            return
        self._at = _NEVER
        self._call()
