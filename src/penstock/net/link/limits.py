"""What a link waits for and holds, and who is told of its life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penstock.net.link.stream import LinkStream


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Times in seconds, sizes in bytes."""

    high_water: int = 64 * 1024
    """Queued on one stream before its writer pauses: a round trip of 1 ms at 500 Mbit/s."""

    ping_interval: float = 7.5
    """How often the peer is pinged, on busy links too. With the timeout, and the tick of 2.5 s: a dead peer is found in 20."""

    ping_timeout: float = 7.5
    """Silence after a ping that ends the link."""

    flood_interval: float = 7.5
    """How long the protocol's flood limits count before they begin anew, however seldom the peer is pinged."""

    close_timeout: float = 30.0
    """A stream that was closed goes on sending what it was given while that moves; standing still so long ends it."""

    linger: float = 30.0
    """How long a peer may go on sending on a stream that we ended; what comes is dropped."""

    stall_timeout: float = 5.0
    """How long streams that stand still may hold half of a small connection window; then the longest-stalled are reset."""


class LinkOwner(Protocol):
    """Who is told."""

    def link_made(self) -> None:
        """The transport is there; streams may be opened."""
        ...

    def stream_requested(self, stream: LinkStream) -> None:
        """Agent: the edge opened `stream`; its `headers` say what for."""
        ...

    def link_lost(self, exc: Exception | None) -> None:
        """The link is gone, and with it every stream."""
        ...
