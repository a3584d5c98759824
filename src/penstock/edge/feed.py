"""The change feed as the rest of the edge sees it: the newest directory, how old it is, and a way to wait for a newer one.

A version is never lowered, so that nobody can bring a revoked caller back by replaying an older page. That a page is still the
newest is signed, each time anew, so that nobody can keep a revocation back for longer than `stale_limit`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from penstock.edge.directory import NOTHING, Directory
from penstock.errors import IdentityError

if TYPE_CHECKING:
    from collections.abc import Callable


class Feed:
    """Holds the newest directory, and tells it."""

    def __init__(
        self,
        *,
        stale_limit: float,
        clock: Callable[[], float],
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.directory: Directory = NOTHING
        self.confirmed_at: float | None = None
        self.is_interrupted = True
        """Whether control's last word is missing: what is not in the directory may only be newer than it."""
        self.floor = -1
        """What no version may be below, whatever the disk gave back: the highest that was ever held."""
        self._stale_limit = stale_limit
        self._clock = clock
        self._on_error = on_error
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[Directory, Directory], None]] = []

    @property
    def version(self) -> int:
        """The version held; -1 before the first."""
        return self.directory.version

    @property
    def is_stale(self) -> bool:
        """Whether control has been silent for so long that what is held decides nothing new."""
        return self.confirmed_at is None or self._clock() - self.confirmed_at > self._stale_limit

    def listen(self, on_change: Callable[[Directory, Directory], None]) -> None:
        """Call `on_change(old, new)` for every newer directory, behind those that listen already. What it raises is its own
        matter: it goes to `on_error`, and keeps the news from nobody.
        """
        self._listeners.append(on_change)

    def confirm(self, at: float) -> None:
        """Control vouched at `at` for what is held."""
        self.confirmed_at = max(at, self.confirmed_at or at)

    def take(self, directory: Directory, confirmed_at: float) -> bool:
        """Take over what a page told: True when it is newer than what is held. IdentityError when it is older than may be."""
        if directory.version < max(self.version, self.floor):
            raise IdentityError(
                "the control plane's feed went backwards",
                detail=f"version {directory.version} after {max(self.version, self.floor)}",
                hint="control was restored from a backup, or an old page is replayed; remove the state folder and enrol again",
            )
        self.confirm(confirmed_at)
        if directory.version == self.version:
            return False
        old, self.directory = self.directory, directory
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for listener in self._listeners:
            self._tell(listener, old)
        return True

    def _tell(self, listener: Callable[[Directory, Directory], None], old: Directory) -> None:
        try:
            listener(old, self.directory)
        except Exception as exc:
            if self._on_error is None:
                raise
            self._on_error("feed listener", exc)

    async def wait_until(self, holds: Callable[[Directory], bool], timeout: float) -> bool:
        """Whether `holds` comes to be true of the directory within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not holds(self.directory):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
