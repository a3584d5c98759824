from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.site import tunnel

from penstock.edge.config import ShareLimits
from penstock.edge.quotas import Quotas
from penstock.errors import TunnelError, TunnelErrorCode

pytestmark = pytest.mark.anyio

MINE = tunnel()
SIBLING = tunnel(id="tnl_01Sibling")
STRANGER = tunnel(id="tnl_01Stranger", organization_id="11111111-0000-4000-8000-000000000000")


def quotas(*, organization: dict[str, Any] | None = None, own: dict[str, Any] | None = None) -> Quotas:
    return Quotas(organization=ShareLimits(**(organization or {})), tunnel=ShareLimits(**(own or {})))


def refusal(shares: Quotas, of: Any) -> TunnelError:
    with pytest.raises(TunnelError) as refused:
        shares.take(of)
    assert refused.value.code is TunnelErrorCode.RATE_LIMITED
    return refused.value


async def test_a_tunnel_has_so_many_streams_at_once_and_another_has_its_own() -> None:
    shares = quotas(own={"streams": 2})
    first, _ = shares.take(MINE), shares.take(MINE)
    refused = refusal(shares, MINE)
    assert ("this tunnel" in refused.public, refused.retry_after) == (True, 5)
    shares.take(SIBLING)
    first.release()
    first.release()  # once is enough
    shares.take(MINE)
    refusal(shares, MINE)


async def test_an_organization_has_so_many_over_all_its_tunnels_and_another_is_not_touched() -> None:
    shares = quotas(organization={"streams": 2})
    shares.take(MINE)
    seat = shares.take(SIBLING)
    assert "this organization" in refusal(shares, MINE).public
    shares.take(STRANGER)
    seat.release()
    shares.take(MINE)


@pytest.mark.parametrize("whose", ["organization", "own"])
async def test_a_burst_of_new_streams_passes_and_then_the_rate_holds_however_soon_they_end(whose: str) -> None:
    limits: Any = {whose: {"streams_per_second": 0.25, "burst": 3}}
    shares = quotas(**limits)
    for _ in range(3):
        shares.take(MINE).release()
    refused = refusal(shares, MINE)
    assert ("faster" in refused.public, refused.retry_after) == (True, 4)


async def test_a_refusal_costs_nothing_and_the_rate_gives_again() -> None:
    shares = quotas(own={"streams_per_second": 1, "burst": 1})
    shares.take(MINE).release()
    for _ in range(50):
        assert refusal(shares, MINE).retry_after == 1
    async with asyncio.timeout(5):
        while True:
            try:
                shares.take(MINE)
                break
            except TunnelError:
                await asyncio.sleep(0.01)


async def test_with_more_than_a_second_of_bytes_waiting_new_streams_are_refused() -> None:
    class Side:
        def throttle(self) -> None: ...
        def unthrottle(self) -> None: ...

    rate = 65_536
    shares = quotas(own={"bytes_per_second": rate})
    meter = shares.take(MINE).meter
    assert meter is not None
    meter.moved(rate + rate // 2, Side())
    shares.take(MINE)  # half a second is waited
    meter.moved(8 * rate, Side())
    refused = refusal(shares, MINE)
    assert ("bytes" in refused.public, refused.retry_after) == (True, 9)
    shares.take(SIBLING)


async def test_without_a_limit_of_bytes_nothing_is_counted() -> None:
    assert quotas().take(MINE).meter is None
    seat = quotas(organization={"bytes_per_second": "1MiB"}).take(MINE)
    assert seat.meter is not None


async def test_tunnels_that_are_idle_are_forgotten_and_others_are_not() -> None:
    shares = quotas(organization={"burst": 10_000}, own={"streams_per_second": 0.001, "burst": 2})
    held = shares.take(tunnel(id="tnl_held"))
    for number in range(3000):
        shares.take(tunnel(id=f"tnl_{number}", verifiers=())).release()
        shares._tunnels[f"tnl_{number}"]._tokens = 2.0  # a day later
    shares.take(tunnel(id="tnl_spent")).release()
    assert len(shares._tunnels) < 2000
    assert {"tnl_held", "tnl_spent"} <= shares._tunnels.keys()
    held.release()
