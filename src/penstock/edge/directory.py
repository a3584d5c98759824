"""What the edge knows of tunnels and callers: one immutable index of one snapshot, or of one and the deltas since."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from penstock.errors import IdentityError
from penstock.protocol.notice import Notice
from penstock.protocol.token import MAX_CAS, MAX_EDGES
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from penstock.schema.edges import CallerRecord, Delta, EdgeRecord, Snapshot, TunnelRecord


@dataclass(frozen=True, slots=True)
class Directory:
    """A snapshot, found by the names that arrive on the wire. What is not in it does not exist."""

    version: int
    tunnels: Mapping[UUID, TunnelRecord]
    domains: Mapping[str, TunnelRecord]
    callers: Mapping[str, CallerRecord]
    edges: Mapping[str, EdgeRecord] = field(default_factory=dict[str, "EdgeRecord"])
    """By the serial of their certificates."""
    news: Notice = field(default_factory=Notice)
    """What agents are told: where the edges are and who signs them."""
    caller_ca_pem: str = ""
    """The CAs of callers; empty while control has said nothing of them."""
    mark: str = ""
    """What control calls this content."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> Directory:
        """The index of `snapshot`."""
        return cls(
            version=snapshot.version,
            tunnels={UUID(tunnel.wire_id): tunnel for tunnel in snapshot.tunnels},
            domains={tunnel.domain: tunnel for tunnel in snapshot.tunnels},
            callers={caller.serial: caller for caller in snapshot.callers},
            caller_ca_pem=snapshot.caller_ca_pem,
            mark=snapshot.mark,
            edges=_by_serial(snapshot.edges),
            news=Notice(edges=snapshot.agent_edges[:MAX_EDGES], cas=_ders(snapshot.edge_ca_pem)),
        )

    def after(self, *deltas: Delta) -> Directory:
        """The index that `deltas` lead to, one after the other. IdentityError where one is for another content than is there.

        The large tables are copied once, however many deltas there are: a restart takes over hundreds.
        """
        held, tunnels, domains, callers = self, dict(self.tunnels), dict(self.domains), dict(self.callers)
        for delta in deltas:
            held = held._told(delta)
            changed = {UUID(tunnel.wire_id): tunnel for tunnel in delta.tunnels}
            for wire_id in (*map(UUID, delta.gone_tunnels), *changed):
                if (gone := tunnels.pop(wire_id, None)) is not None:
                    domains.pop(gone.domain, None)
            for serial in delta.gone_callers:
                callers.pop(serial, None)
            tunnels.update(changed)
            domains.update((tunnel.domain, tunnel) for tunnel in delta.tunnels)
            callers.update((caller.serial, caller) for caller in delta.callers)
        return replace(held, tunnels=tunnels, domains=domains, callers=callers)

    def _told(self, delta: Delta) -> Directory:
        """With what `delta` says of all but the large tables."""
        if not self.mark or (delta.after, delta.after_mark) != (self.version, self.mark) or delta.version <= self.version:
            raise IdentityError(
                "a delta of the feed is for another state than is held",
                detail=f"from {delta.after} to {delta.version}; held: {self.version}",
            )
        return replace(
            self,
            version=delta.version,
            mark=delta.mark,
            caller_ca_pem=self.caller_ca_pem if delta.caller_ca_pem is None else delta.caller_ca_pem,
            edges=self.edges if delta.edges is None else _by_serial(delta.edges),
            news=Notice(
                edges=self.news.edges if delta.agent_edges is None else delta.agent_edges[:MAX_EDGES],
                cas=self.news.cas if delta.edge_ca_pem is None else _ders(delta.edge_ca_pem),
            ),
        )

    def tunnel_of(self, host: str) -> TunnelRecord | None:
        """The tunnel of `host` (normalized): `<route>.<domain>`, or the bare domain, which a stock caller sends."""
        return self.domains.get(host.partition(".")[2]) or self.domains.get(host)

    def knows(self, serial: str) -> bool:
        """Whether there is a caller or an edge with a certificate of this serial."""
        return serial in self.callers or serial in self.edges


def _by_serial(edges: Iterable[EdgeRecord]) -> dict[str, EdgeRecord]:
    return {serial: edge for edge in edges for serial in edge.serials}


def _ders(pem: str) -> tuple[bytes, ...]:
    return tuple(certs.certificate_to_der(ca) for ca in certs.load_bundle(pem)[:MAX_CAS]) if pem else ()


NOTHING: Final = Directory(version=-1, tunnels={}, domains={}, callers={})
"""Before the first snapshot."""


def revoked_callers(old: Directory, new: Directory) -> frozenset[str]:
    """Serials whose live streams are to be cut: what is not in the feed any more.

    Control keeps the record of a certificate that ran out for another life of it: its streams were opened in time and go on;
    who is revoked meanwhile loses them.
    """
    return frozenset(old.callers.keys() - new.callers.keys())


def evicted_edges(old: Directory, new: Directory) -> frozenset[str]:
    """Serials of edges' certificates whose passed-on streams are to be cut."""
    return frozenset(old.edges.keys() - new.edges.keys())


def closed_tunnels(old: Directory, new: Directory) -> frozenset[UUID]:
    """Wire ids whose links are to be closed: archived since. A rotated secret closes nothing (published semantics)."""
    return frozenset(old.tunnels.keys() - new.tunnels.keys())
