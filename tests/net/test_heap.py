from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from penstock.net import heap

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def full_collections() -> int:
    return gc.get_stats()[2]["collections"]


def test_what_a_role_built_to_start_is_never_looked_at_again() -> None:
    built = [[number] for number in range(1000)]
    heap.settle()
    assert gc.get_freeze_count() > len(built)
    assert not any(thing is built for thing in gc.get_objects())


def test_a_growing_number_of_streams_starts_no_full_collection() -> None:
    heap.settle()
    before = full_collections()
    streams = [[number] for number in range(1_000_000)]
    assert gc.get_stats()[0]["collections"] > 0
    assert full_collections() == before, len(streams)


def test_cycles_of_old_objects_are_collected_on_a_schedule() -> None:
    async def main() -> None:
        heap.settle()
        before = full_collections()
        tending = asyncio.get_running_loop().create_task(heap.tend(0.001))
        async with asyncio.timeout(10):
            while full_collections() < before + 2:
                await asyncio.sleep(0)
        tending.cancel()

    asyncio.run(main())
