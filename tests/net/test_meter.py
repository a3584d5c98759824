from __future__ import annotations

import asyncio

import pytest

from penstock.net.meter import Bucket, Meter

pytestmark = pytest.mark.anyio

RATE = 1_000_000


class Side:
    """One direction of a relay, as a meter knows it."""

    def __init__(self) -> None:
        self.waits = False
        self.went_on_at = 0.0
        self.gone_on = asyncio.Event()

    def throttle(self) -> None:
        self.waits = True

    def unthrottle(self) -> None:
        self.waits = False
        self.went_on_at = asyncio.get_running_loop().time()
        self.gone_on.set()


async def test_a_seconds_worth_passes_at_once_and_what_is_more_waits_until_it_is_paid() -> None:
    meter, side = Meter([Bucket(RATE)]), Side()
    began = asyncio.get_running_loop().time()
    meter.moved(RATE, side)
    assert not side.waits
    meter.moved(RATE // 5, side)
    assert side.waits
    assert 0 < meter.wait <= 0.2
    await asyncio.wait_for(side.gone_on.wait(), 5)
    assert side.went_on_at - began >= 0.19
    assert meter.wait == 0


async def test_a_group_in_debt_holds_those_whose_own_bucket_is_not_empty() -> None:
    group = Bucket(RATE)
    one, other = Meter([Bucket(RATE * 10), group]), Meter([Bucket(RATE * 10), group])
    busy, quiet = Side(), Side()
    one.moved(RATE + RATE // 10, busy)
    other.moved(1, quiet)
    assert busy.waits
    assert quiet.waits
    await asyncio.wait_for(asyncio.gather(busy.gone_on.wait(), quiet.gone_on.wait()), 5)
    assert one.wait == other.wait == 0
