"""Which edge a link dials: spread over all that are known, away from those that just failed. Pure: time is passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from penstock.config.types import HostPort


class Edges:
    """The edges known now: those that were given first, then those that were learned over links.

    The given ones stay as a last resort: an edge that advertised an address where nobody answers must not be all that is left.
    `offset`: agents differ in where they begin, or all would fill the first edge.
    """

    def __init__(self, addresses: Iterable[HostPort], *, offset: float) -> None:
        self._offset = offset
        self._addresses: tuple[HostPort, ...] = ()
        self._given: tuple[HostPort, ...] = ()
        self._avoided: dict[HostPort, float] = {}
        self.give(addresses)

    @property
    def addresses(self) -> tuple[HostPort, ...]:
        """In the order in which this agent prefers them, each once."""
        return self._addresses

    def give(self, addresses: Iterable[HostPort]) -> bool:
        """The token's, or a setting's: all edges now, and where to go when all that is learned later fails."""
        given = tuple(addresses)
        self._given = given or self._given
        return self.learn(given)

    def learn(self, addresses: Iterable[HostPort]) -> bool:
        """These are all edges now; False when that is nothing new. An empty list changes nothing."""
        known = sorted(set(addresses), key=str)
        if not known or set(known) == set(self._addresses):
            return False
        start = int(self._offset * len(known))
        self._addresses = tuple(known[start:] + known[:start])
        return True

    def avoid(self, edge: HostPort, until: float) -> None:
        """It failed or goes: others first, up to that time."""
        self._avoided[edge] = until

    def works(self, edge: HostPort) -> None:
        """A link is registered there."""
        self._avoided.pop(edge, None)

    def choose(self, held: Mapping[HostPort, int], now: float, *, is_cut_off: bool = False) -> HostPort:
        """Where the next link goes: the edge with the fewest of ours (`held`), avoided ones last, the longest-avoided first.

        `is_cut_off`: none of these edges has a link of ours, so with all edges failing the given ones are tried as well.
        """
        edges = self._addresses
        if is_cut_off and all(self._until(edge, now) for edge in edges):
            edges += tuple(edge for edge in self._given if edge not in edges)
        return min(edges, key=lambda edge: (self._until(edge, now), held.get(edge, 0)))

    def others(self, edge: HostPort, now: float) -> bool:
        """Whether a link of `edge` could go elsewhere now."""
        return any(other != edge and not self._until(other, now) for other in self._addresses)

    def uneven(self, held: Mapping[HostPort, int], now: float) -> tuple[HostPort, HostPort] | None:
        """From where to where one link should move: off an edge that is no more known, or from the fullest to the emptiest."""
        free = [edge for edge in self._addresses if not self._until(edge, now)]
        full = [edge for edge, count in held.items() if count > 0]
        if not free or not full:
            return None
        to = min(free, key=lambda edge: held.get(edge, 0))
        gone = [edge for edge in full if edge not in self._addresses]
        fullest = gone[0] if gone else max(full, key=lambda edge: held[edge])
        return (fullest, to) if gone or held[fullest] - held.get(to, 0) > 1 else None

    def _until(self, edge: HostPort, now: float) -> float:
        until = self._avoided.get(edge, 0.0)
        return until if until > now else 0.0
