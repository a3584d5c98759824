"""What the edge knows of tunnels and callers: one immutable index of one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

from penstock.protocol.notice import Notice
from penstock.protocol.token import MAX_CAS, MAX_EDGES
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.schema.edges import CallerRecord, EdgeRecord, Snapshot, TunnelRecord


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

    @classmethod
    def of(cls, snapshot: Snapshot) -> Directory:
        """The index of `snapshot`."""
        return cls(
            version=snapshot.version,
            tunnels={UUID(tunnel.wire_id): tunnel for tunnel in snapshot.tunnels},
            domains={tunnel.domain: tunnel for tunnel in snapshot.tunnels},
            callers={caller.serial: caller for caller in snapshot.callers},
            caller_ca_pem=snapshot.caller_ca_pem,
            edges={serial: edge for edge in snapshot.edges for serial in edge.serials},
            news=Notice(edges=snapshot.agent_edges[:MAX_EDGES], cas=_ders(snapshot.edge_ca_pem)),
        )

    def tunnel_of(self, host: str) -> TunnelRecord | None:
        """The tunnel of `host` (normalized): `<route>.<domain>`, or the bare domain, which a stock caller sends."""
        return self.domains.get(host.partition(".")[2]) or self.domains.get(host)

    def knows(self, serial: str) -> bool:
        """Whether there is a caller or an edge with a certificate of this serial."""
        return serial in self.callers or serial in self.edges


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
