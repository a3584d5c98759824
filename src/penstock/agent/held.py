"""A link that is registered, in its slot: where it is, and when the slot goes on without it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.agent.connection import EdgeConnection
    from penstock.agent.slots import Slot
    from penstock.config.types import HostPort


@dataclass(eq=False)
class Held:
    """One registered link."""

    slot: Slot
    edge: HostPort
    connection: EdgeConnection
    since: float
    replaced: asyncio.Future[Held | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when its slot is to go on without it: with the link in its place, or None where that is still to be made."""
    is_leaving: bool = False
    worker: tuple[int, int] | None = None
    """Which of its edge's workers holds it, and how many there are, where the edge says so."""
    placed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when that was said."""

    def place(self, worker: tuple[int, int]) -> None:
        """The edge says where it is."""
        self.worker = worker
        self.placed.set()

    def replace(self, by: Held | None) -> None:
        """Let the slot go on; this link lives until its edge closes it."""
        if not self.replaced.done():
            self.replaced.set_result(by)
