"""What using tunnels has taught about edges: who holds which tunnel, which agent served last, who is about to go."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from penstock.tls.names import EDGE_DOMAIN

if TYPE_CHECKING:
    from penstock.net.upgrade import UpgradeResponse
    from penstock.schema.callers import EdgeAddress, Resolution

_REPLICA: Final = b"penstock-replica"
_EDGE: Final = b"penstock-edge"
_AVOID_SECONDS: Final = 60.0  # an edge that drains is gone, or back as another process, by then


class Whereabouts:
    """Of one caller. All streams to one tunnel stay on one replica while it lives."""

    def __init__(self) -> None:
        self._replicas: dict[str, bytes] = {}  # by tunnel id
        self._holders: dict[str, str] = {}  # the edge a stream was passed on to, by tunnel id
        self._avoided: dict[str, float] = {}  # until when, by server name

    def ordered(self, resolution: Resolution, now: float) -> list[EdgeAddress]:
        """The edge that was told to hold the tunnel, then as control ranks them; chance among equals spreads load."""
        self._avoided = {name: until for name, until in self._avoided.items() if until > now}
        holder = self._holders.get(resolution.tunnel_id)
        edges = random.sample(resolution.edges, len(resolution.edges))  # keeps no secret
        return sorted(edges, key=lambda edge: (edge.server_name in self._avoided, edge.server_name != holder, edge.rank))

    def headers(self, resolution: Resolution) -> list[tuple[bytes, bytes]]:
        """What an upgrade asks for beside its host."""
        replica = self._replicas.get(resolution.tunnel_id)
        return [(_REPLICA, replica)] if replica is not None else []

    def served(self, resolution: Resolution, edge: EdgeAddress, response: UpgradeResponse) -> frozenset[str]:
        """A stream was opened; the server names of the edges that it goes through."""
        if replica := response.header(_REPLICA):
            self._replicas[resolution.tunnel_id] = replica
        passed_to = response.header(_EDGE)
        if passed_to is None:
            return frozenset({edge.server_name})
        holder = self._holders[resolution.tunnel_id] = f"{passed_to.decode('ascii', 'replace')}.{EDGE_DOMAIN}"
        return frozenset({edge.server_name, holder})

    def drains(self, server_name: str, now: float) -> None:
        """An edge is about to go: others first."""
        self._avoided[server_name] = now + _AVOID_SECONDS
        self._holders = {tunnel: holder for tunnel, holder in self._holders.items() if holder != server_name}
