from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import process_time
from uuid import UUID

import pytest
from tests.support.ca import CALLER, DOMAIN, ORGANIZATION, WORKSPACE
from tests.support.site import TUNNEL_ID, tunnel

from penstock.edge.directory import NOTHING, Directory, closed_tunnels, evicted_edges, revoked_callers
from penstock.errors import IdentityError
from penstock.schema.edges import CallerRecord, Delta, EdgeRecord, Snapshot

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def caller(serial: str, expires_at: datetime = NOW + timedelta(hours=1)) -> CallerRecord:
    return CallerRecord(
        serial=serial, caller_id=CALLER, organization_id=ORGANIZATION, workspace_id=WORKSPACE, expires_at=expires_at
    )


def holding(*callers: CallerRecord) -> Directory:
    return Directory.of(Snapshot(version=1, tunnels=(tunnel(),), callers=callers))


def test_a_route_and_the_bare_domain_find_their_tunnel_and_nothing_else_does() -> None:
    known = holding()
    found = [host for host in (f"a.{DOMAIN}", DOMAIN, f"a.b.{DOMAIN}", "a", f"x{DOMAIN}", "") if known.tunnel_of(host)]
    assert found == [f"a.{DOMAIN}", DOMAIN]


def test_many_deltas_cost_about_what_one_does_and_one_that_does_not_follow_is_refused() -> None:
    """A restart takes over all that were kept; each by itself would copy every record that is known."""
    records = tuple(tunnel(id=f"tnl_{n}", wire_id=str(UUID(int=n)), domain=f"d{n}.example.com") for n in range(20_000))
    whole = Directory.of(Snapshot(version=0, mark="0", tunnels=records, callers=()))
    deltas = [
        Delta(
            after=n,
            after_mark=str(n),
            version=n + 1,
            mark=str(n + 1),
            gone_tunnels=(str(UUID(int=n)),),
            callers=(caller(f"{n}"),),
            gone_callers=(f"{n - 1}",),
        )
        for n in range(400)
    ]
    assert cost(whole, deltas) < 20 * cost(whole, deltas[:1])
    held = whole.after(*deltas)
    assert (held.version, held.mark, len(held.tunnels), len(held.domains), set(held.callers)) == (
        400,
        "400",
        19_600,
        19_600,
        {"399"},
    )
    with pytest.raises(IdentityError, match="another state"):
        whole.after(*deltas[:3], *deltas[4:])


def cost(whole: Directory, deltas: list[Delta]) -> float:
    """CPU seconds, of the best try."""
    tries: list[float] = []
    for _ in range(3):
        began = process_time()
        whole.after(*deltas)
        tries.append(process_time() - began)
    return min(tries)


def test_before_the_first_snapshot_nothing_exists() -> None:
    assert NOTHING.tunnel_of(DOMAIN) is None
    assert not NOTHING.callers


def test_a_caller_that_leaves_the_feed_is_revoked_whether_or_not_its_certificate_ran_out() -> None:
    old = holding(caller("a"), caller("b"), caller("c", NOW - timedelta(seconds=1)))
    assert revoked_callers(old, holding(caller("b"))) == {"a", "c"}


def test_an_edge_that_leaves_the_feed_is_evicted_and_one_with_a_new_certificate_is_not() -> None:
    def of(*edges: EdgeRecord) -> Directory:
        return Directory.of(Snapshot(version=1, tunnels=(), callers=(), edges=edges))

    def edge(name: str, *serials: str) -> EdgeRecord:
        return EdgeRecord(name=name, serials=serials, host="192.0.2.1", port=443, server_name=name)

    assert evicted_edges(of(edge("a", "1"), edge("b", "2")), of(edge("a", "3", "1"))) == {"2"}


def test_only_a_tunnel_that_left_is_closed_and_a_rotated_one_stays() -> None:
    old = holding()
    rotated = Directory.of(Snapshot(version=2, tunnels=(tunnel(verifiers=("00" * 32,)),), callers=()))
    archived = Directory.of(Snapshot(version=3, tunnels=(), callers=()))
    assert closed_tunnels(old, rotated) == frozenset()
    assert closed_tunnels(old, archived) == {TUNNEL_ID}
