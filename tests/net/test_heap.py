from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.files import without_files

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


def test_a_program_of_several_roles_is_looked_through_as_soon_as_it_has_started() -> None:
    gc.set_threshold(1_000_000, 10, 10)
    before = gc.get_stats()[0]["collections"]
    streams = [[number] for number in range(50_000)]
    assert gc.get_stats()[0]["collections"] == before
    heap.resume()
    streams += [[number] for number in range(50_000)]
    assert gc.get_stats()[0]["collections"] > before, len(streams)


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


def test_a_process_that_is_out_of_files_goes_on_collecting_and_still_knows_what_it_held_before() -> None:
    async def main() -> None:
        tending = asyncio.get_running_loop().create_task(heap.tend(0.001))
        await asyncio.sleep(0)
        with without_files():
            before = full_collections()
            async with asyncio.timeout(10):
                while full_collections() < before + 2:
                    await asyncio.sleep(0)
                    assert not tending.done()
            assert heap.resident() == 0
        tending.cancel()

    asyncio.run(main())
    surplus = heap.Surplus(100_000_000)
    assert not surplus.is_worth_it(0, is_quiet=True)
    assert not surplus.is_worth_it(105_000_000, is_quiet=True)  # as if it had not been asked
    surplus.released(0)
    assert not surplus.is_worth_it(105_000_000, is_quiet=True)


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's")
def test_what_a_burst_has_left_goes_back_to_the_system_once_the_process_is_quiet() -> None:
    async def main() -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have left would be used up again, and nothing would grow
        tending = asyncio.get_running_loop().create_task(heap.tend(look=0.01))
        await asyncio.sleep(0)  # it notes what the process needs before
        before = heap.resident()
        burst: list[bytes] = []
        pinned: list[bytes] = []  # small things that live on, so that hardly anything free is at the heap's end
        for _ in range(3000):
            burst.append(bytes([1]) * 50_000)
            pinned.append(bytes([1]) * 700)
        grown = heap.resident() - before
        assert grown > 100_000_000
        burst.clear()
        async with asyncio.timeout(10):
            while heap.resident() - before > grown / 10:
                await asyncio.sleep(0.01)
        tending.cancel()

    asyncio.run(main())


def test_what_is_held_for_good_is_looked_at_once_and_a_busy_process_is_left_alone() -> None:
    mega = 1_000_000
    surplus = heap.Surplus(100 * mega)
    assert not surplus.is_worth_it(105 * mega, is_quiet=True)
    assert not surplus.is_worth_it(400 * mega, is_quiet=False)
    assert surplus.is_worth_it(400 * mega, is_quiet=True)
    surplus.released(350 * mega)  # streams that live
    assert not surplus.is_worth_it(355 * mega, is_quiet=True)
    assert not surplus.is_worth_it(90 * mega, is_quiet=True)
    assert surplus.is_worth_it(350 * mega, is_quiet=True)
