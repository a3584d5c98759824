"""The streams of a link that live, and who waits for there to be fewer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.net.link.stream import LinkStream


class Table:
    """By id."""

    __slots__ = ("_fewer", "_loop", "live")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.live: dict[int, LinkStream] = {}
        self._loop = loop
        self._fewer: asyncio.Future[None] | None = None

    def remove(self, stream_id: int) -> LinkStream | None:
        """One that is over, or None where it is over already."""
        stream = self.live.pop(stream_id, None)
        if stream is not None:
            self.wake()
        return stream

    async def fewer(self) -> None:
        """Returns when one is removed, or at `wake`."""
        if self._fewer is None:
            self._fewer = self._loop.create_future()
        await asyncio.shield(self._fewer)

    def wake(self) -> None:
        """Something has changed for those who wait."""
        if self._fewer is not None:
            self._fewer.set_result(None)
            self._fewer = None
