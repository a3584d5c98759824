"""What control tells of a change is what an edge would know had it been told everything: as records, on the wire, on disk."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.site import AWAY, until
from tests.support.world import World, world

from penstock.control.service.feed_state import FeedState, Few
from penstock.edge.directory import Directory
from penstock.edge.server import Edge
from penstock.schema.edges import CallerRecord, Delta, EdgeRecord, TunnelRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOON = datetime(2030, 1, 1, tzinfo=UTC)


# --- as records -------------------------------------------------------------------------------------------------------


def a_tunnel(row: tuple[Any, ...]) -> TunnelRecord:
    return TunnelRecord(
        id=f"tnl_{row[0]}",
        wire_id=row[0],
        account="a",
        domain=f"d{UUID(row[0]).int}.example.com",
        organization_id="o",
        workspace_id="w",
        verifiers=(str(row[1]),),
        certificates=row[1],
    )


def a_caller(row: tuple[Any, ...]) -> CallerRecord:
    return CallerRecord(
        serial=row[0], caller_id="c", organization_id="o", workspace_id="w", expires_at=SOON + timedelta(hours=row[1])
    )


tables = st.dictionaries(st.integers(0, 9), st.integers(0, 3), max_size=10)
few = st.builds(
    Few,
    edges=st.lists(st.integers(0, 2), unique=True).map(
        lambda numbers: tuple(EdgeRecord(name=f"e{n}", serials=(str(n),), host="h", port=1, server_name="s") for n in numbers)
    ),
    agent_edges=st.lists(st.sampled_from(["a:1", "b:1"]), unique=True).map(tuple),
    caller_ca_pem=st.sampled_from(["", "one", "two"]),
)
states = st.lists(st.tuples(tables, tables, few), min_size=2, max_size=6)


def advance(state: FeedState, version: int, tunnels: dict[int, int], callers: dict[int, int], few: Few) -> None:
    rows = {str(UUID(int=key)): (str(UUID(int=key)), value) for key, value in tunnels.items()}
    changed = state.tunnels.update(rows, a_tunnel)
    serials = {f"{key:x}": (f"{key:x}", value) for key, value in callers.items()}
    state.advance(version, changed, state.callers.update(serials, a_caller), few)


@given(states=states, steps=st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_snapshot_and_the_deltas_since_are_the_later_snapshot(states: list[Any], steps: list[bool]) -> None:
    control = FeedState()
    held: Directory | None = None
    for version, (made, is_heard) in enumerate(zip(states, steps, strict=False)):
        advance(control, version, *made)
        whole = Directory.of(control.snapshot())
        if held is None:
            held = whole
        elif is_heard or version == len(states) - 1:  # some versions pass an edge by
            delta = control.delta(held.version, held.mark)
            assert delta is not None
            held = held.after(Delta.model_validate_json(delta.model_dump_json(exclude_none=True)))
            assert held == whole


@given(one=st.tuples(tables, tables, few), other=st.tuples(tables, tables, few))
def test_two_processes_call_one_content_the_same_and_another_content_otherwise(one: Any, other: Any) -> None:
    first, second = FeedState(), FeedState()
    advance(first, 1, *other)
    advance(first, 2, *one)
    advance(second, 2, *one)
    assert first.mark == second.mark
    advance(second, 2, *other)
    assert (first.mark == second.mark) == (one == other)


def test_no_delta_leads_from_a_state_that_is_not_known_or_by_too_many_records() -> None:
    control = FeedState()
    advance(control, 1, {}, {}, Few())
    mark = control.mark
    advance(control, 2, {1: 1}, {}, Few())
    assert control.delta(1, mark) is not None
    assert control.delta(1, "0" * 32) is None  # as a store restored from a backup would have it
    assert control.delta(0, mark) is None
    advance(control, 3, {}, dict.fromkeys(range(300), 1), Few())
    assert control.delta(1, mark) is None


# --- on the wire and on disk ------------------------------------------------------------------------------------------


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        yield running


async def changed(running: World) -> None:
    """Control issues a caller's certificate, which the edge hears of."""
    version = running.edge.feed.version
    async with running.streams() as streams:
        await streams._credentials.outer(running.edge._presented.identity.edge_ca_pem)  # type: ignore[union-attr]
    await until(lambda: running.edge.feed.version > version)


@pytest.mark.anyio
async def test_an_edge_hears_of_changes_alone_keeps_them_and_restarts_with_them(running: World) -> None:
    edge = running.edge
    kept = edge._state._folder
    whole = (kept / "snapshot").read_bytes()
    await changed(running)
    await changed(running)
    await until(lambda: (kept / "version").read_text() == str(edge.feed.version))
    assert (kept / "snapshot").read_bytes() == whole  # it was not sent again
    assert 0 < edge._state.deltas_size < len(whole)
    other = await running.add_edge("edge-2")  # it has heard all at once
    await until(lambda: other.feed.version == edge.feed.version)
    assert other.feed.directory == edge.feed.directory

    await edge.stop()
    for damage in (b"", b"\0\0\1\0cut short"):  # the second is what a crash leaves of a delta that nobody was told of
        with (kept / "deltas").open("ab") as deltas:
            deltas.write(damage)
        again = Edge(edge._config.model_copy(update={"control_url": AWAY}))
        await again.start()
        assert again.feed.directory == edge.feed.directory
        await again.stop()


@pytest.mark.anyio
async def test_deltas_that_were_changed_or_taken_away_on_disk_leave_nothing_to_go_by_until_control_is_heard(
    running: World,
) -> None:
    edge = running.edge
    kept = edge._state._folder
    await changed(running)
    await until(lambda: (kept / "version").read_text() == str(edge.feed.version))
    await edge.stop()
    deltas = (kept / "deltas").read_bytes()
    for damaged in (deltas.replace(b'"gone_callers":[]', b'"gone_callers":0 '), b""):
        (kept / "deltas").write_bytes(damaged)
        alone = Edge(edge._config.model_copy(update={"control_url": AWAY}))
        await alone.start()
        assert alone.feed.version == -1  # an older state could bring a revoked caller back
        await alone.stop()
    healed = Edge(edge._config)
    await healed.start()
    assert healed.feed.version >= edge.feed.version
    assert json.loads((kept / "snapshot").read_bytes()[64:])["version"] == healed.feed.version
    await healed.stop()
