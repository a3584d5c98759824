"""Allowances: how often a peer may make us work for nothing in an interval.

This room has no clock: whoever drives a connection says when an interval begins. Frames that neither cost memory nor make us
answer (WINDOW_UPDATE, PRIORITY, unknown types) are not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.http2.frames import ErrorCode

if TYPE_CHECKING:
    from penstock.protocol.http2.settings import Settings


class Allowances:
    """Counts since the last refill, each with its limit."""

    __slots__ = ("_empty", "_pings", "_resets", "_settings", "_updates")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resets = self._pings = self._updates = self._empty = 0

    def refill(self) -> None:
        """An interval begins."""
        self._resets = self._pings = self._updates = self._empty = 0

    def count_reset(self) -> None:
        """A stream opened and reset for nothing, or one the peer made us reset or refuse."""
        self._resets += 1
        _check(self._resets, self._settings.max_resets, "streams reset too often")

    def count_ping(self) -> None:
        """A PING that has to be answered."""
        self._pings += 1
        _check(self._pings, self._settings.max_pings, "too many PING frames")

    def count_settings(self) -> None:
        """A SETTINGS that has to be applied and answered."""
        self._updates += 1
        _check(self._updates, self._settings.max_settings, "too many SETTINGS frames")

    def count_empty(self) -> None:
        """A frame that brought nothing."""
        self._empty += 1
        _check(self._empty, self._settings.max_empty_frames, "too many frames without content")


def _check(count: int, limit: int, public: str) -> None:
    if count > limit:
        raise RemoteProtocolError(public, ErrorCode.ENHANCE_YOUR_CALM, detail=f"more than {limit} in one interval")
