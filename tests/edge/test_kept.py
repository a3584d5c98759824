"""What an edge keeps of the feed on disk, as a restart and the other workers find it."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.following import Control, fresh
from tests.support.site import tunnel, until

from penstock.edge import kept, pages
from penstock.edge.server import Edge
from penstock.edge.state import EdgeState, StoredPage
from penstock.schema.edges import DELTA_CONTEXT, CallerRecord, Delta

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.site import Site

pytestmark = pytest.mark.anyio


def delta(site: Site, after: int, **changes: Any) -> StoredPage:
    """From one version to the next, which are each marked by their number."""
    body = Delta.model_validate(
        {"after": after, "after_mark": f"{after:032x}", "version": after + 1, "mark": f"{after + 1:032x}", **changes}
    )
    text = body.model_dump_json(exclude_none=True).encode()
    return StoredPage(text, site.feed_key.sign(DELTA_CONTEXT + text), time.time())


async def test_a_worker_that_starts_just_while_the_first_one_replaces_the_snapshot_finds_one_with_its_own_deltas(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = site.edge_config(workers=2, worker=1)  # away from control: it has what is on disk
    first = EdgeState(config.state_dir)
    read = EdgeState._read
    replaced: list[int] = []

    def reading(state: EdgeState, file: Path, *size: int) -> bytes | None:
        held = read(state, file, *size)
        if file.name == "snapshot" and len(replaced) < 2:  # twice: the second look may meet the next one
            version = site.version + 1
            replaced.append(version)
            first.save_snapshot(site.snapshot(f"{version:032x}"), version)
            site.version += 1
            first.save_delta(delta(site, version, gone_callers=[record.serial for record in site.callers]), version + 1)
        return held

    monkeypatch.setattr(EdgeState, "_read", reading)
    worker = Edge(config)
    await worker.start()
    assert len(replaced) == 2
    assert worker.feed.version == replaced[-1] + 1
    assert not worker.feed.directory.callers
    assert worker.why_not_ready() is None
    await worker.stop()


@pytest.mark.parametrize(("share", "worker", "asks_whole"), [(1000, None, True), (1, None, False), (1000, 1, False)])
async def test_the_one_that_writes_asks_for_the_whole_once_the_deltas_on_disk_are_many_beside_the_snapshot(
    site: Site, monkeypatch: pytest.MonkeyPatch, share: int, worker: int | None, *, asks_whole: bool
) -> None:
    """The others read, and what they found on disk does not shrink under them: they would ask for the whole for ever."""
    monkeypatch.setattr(kept, "_DELTAS", 10)
    monkeypatch.setattr(kept, "_SHARE", share)
    folder, token = site.folder / "fresh", site.folder / "enrolment-token"
    token.write_text("pst-enrol-test\n")
    async with Control(site).running() as control, asyncio.timeout(10):
        edge = fresh(control, folder, enrolment_token_file=token)
        await edge.start()
        control.delta = delta(site, edge.feed.version)
        control.publish()
        await until(lambda: (folder / "version").read_text() == str(site.version))
        await edge.stop()
        assert (folder / "deltas").exists()
        control.asked.clear()
        again = fresh(control, folder, worker=worker, workers=2 if worker else 1)
        await again.start()
        await until(lambda: len(control.asked) >= 2)
        assert ["delta" not in asked for asked in control.asked] == [asks_whole] * len(control.asked)
        control.delta = delta(site, again.feed.version)
        control.publish()
        await until(lambda: again.feed.version == site.version)
        await until(lambda: "delta" in control.asked[-1] and control.asked[-1]["after"] == str(site.version))
        assert (folder / "deltas").exists() is not asks_whole
        await again.stop()


async def test_the_loop_goes_on_while_a_large_snapshot_is_read(site: Site) -> None:
    site.tunnels = tuple(tunnel(id=f"tnl_{n}", wire_id=str(uuid.UUID(int=n)), domain=f"d{n}.example.com") for n in range(5_000))
    soon = datetime.now(UTC) + timedelta(hours=1)
    site.callers = tuple(
        CallerRecord(serial=f"{n:x}", caller_id="c", organization_id="o", workspace_id="w", expires_at=soon)
        for n in range(5_000)
    )
    stored = site.snapshot()
    stood: list[float] = []
    for _ in range(5):
        began = beat = time.process_time()
        reading = asyncio.gather(asyncio.to_thread(pages.whole, site.public_key, stored))
        longest = 0.0
        while not reading.done():
            await asyncio.sleep(0.001)
            longest, beat = max(longest, time.process_time() - beat), time.process_time()
        stood.append(longest / (beat - began))
        (directory,) = await reading
        assert len(directory.callers) == 5_000
    assert min(stood) < 0.4  # of what it takes of the processor; as one step it would be most of it
