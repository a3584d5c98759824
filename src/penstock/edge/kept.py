"""What the edge holds, kept on disk for a restart: behind for a while at worst, never with a gap.

A disk that takes nothing costs no revocation: what is held is in force, kept or not. What could not be written is not patched
up: the whole is asked for anew, with growing waits, until it is on disk.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from typing import TYPE_CHECKING, Final

from penstock.errors import PenstockError
from penstock.net.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from penstock.edge.state import EdgeState, StoredFeed, StoredPage

_DELTAS: Final = 256 * 1024  # bytes of deltas on disk: some 500 changes, which a restart takes over in a tenth of a second
_SHARE: Final = 16  # or one byte in so many of the snapshot: a restart needs about as long for either then
_AGAIN: Final = 1.0  # seconds, growing: each try brings the whole over the wire
_AGAIN_MOST: Final = 60.0


class Kept:
    """What is on disk. Of several workers, which share a folder, the first one `writes`."""

    def __init__(self, state: EdgeState, log: FilteringBoundLogger, *, writes: bool) -> None:
        self._state = state
        self._log = log
        self._writes = writes
        self._waits = Backoff(secrets.SystemRandom().random, base=_AGAIN, cap=_AGAIN_MOST, floor=_AGAIN / 2)
        self._due: float | None = None

    @property
    def is_behind(self) -> bool:
        """Whether something of what is held is not on disk, or may not be."""
        return self._due is not None

    @property
    def due_in(self) -> float:
        """Seconds until the whole is to be asked for; infinite while the disk has all that is held."""
        return math.inf if self._due is None else max(0.0, self._due - asyncio.get_running_loop().time())

    @property
    def is_long(self) -> bool:
        """Whether so many deltas are kept that the whole is the better news."""
        return self._writes and self._state.deltas_size > max(_DELTAS, self._state.snapshot_size // _SHARE)

    async def load(self) -> StoredFeed:
        """What a restart finds."""
        return await asyncio.to_thread(self._state.load_feed)

    async def whole(self, page: StoredPage, version: int) -> None:
        """Keep a snapshot: with it the disk has all that is held."""
        await self._write(lambda: self._state.save_snapshot(page, version))

    async def delta(self, page: StoredPage, version: int) -> None:
        """Keep a delta, where the disk has the state that it is for."""
        if not self.is_behind:
            await self._write(lambda: self._state.save_delta(page, version))

    async def confirm(self, at: float) -> None:
        """Control said that nothing is newer."""
        if not self.is_behind:
            await self._write(lambda: self._state.confirm_snapshot(at))

    async def _write(self, write: Callable[[], None]) -> None:
        if not self._writes:
            return
        wait = self._waits.next()
        self._due = asyncio.get_running_loop().time() + wait  # whatever ends this early: it is not known to be written
        try:
            await asyncio.to_thread(write)
        except PenstockError as exc:
            self._log.error("feed not saved", reason=exc.public, detail=exc.detail, hint=exc.hint, retry_in=round(wait, 1))
        else:
            self._due = None
            self._waits.reset()
