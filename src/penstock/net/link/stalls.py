"""Streams whose readers stand still, on a link whose peer has one small window for all of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.protocol.http2 import Holder


class Stalls:
    """Asked at every tick while half of the peer's connection window is out; `clear` when it is not."""

    __slots__ = ("_since", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._since: dict[int, tuple[int, float]] = {}

    def clear(self) -> None:
        """There is room: whoever stands still is in nobody's way."""
        self._since.clear()

    def in_the_way(self, now: float, holders: Iterable[Holder], window: int) -> list[int]:
        """Ids of streams to be reset, the longest-stalled first: as many as leave the others more than half of `window`.

        A stream that was credited meanwhile is slow, not stalled: it is never among them.
        """
        before, self._since = self._since, {}
        stalled: list[tuple[float, int, int]] = []
        for holder in holders:
            seen, since = before.get(holder.id, (-1, now))
            if seen != holder.credits:
                since = now
            self._since[holder.id] = holder.credits, since
            if now - since >= self._timeout:
                stalled.append((since, holder.id, holder.held))
        held = sum(bytes_held for _, _, bytes_held in stalled)
        reset: list[int] = []
        for _, stream_id, bytes_held in sorted(stalled):
            if held * 2 < window:
                break
            held -= bytes_held
            reset.append(stream_id)
        return reset
