"""What a request, and what a GiB, costs in CPU time on each way: user and system time of each process it leads through.

CPU time, as wall-clock says more about who else uses the machine. The ways take turns, round by round, so that what
neighbours do to caches and clock speed hits all of them alike.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from bench.load import full_load, get, paced_load, post
from bench.upstream import BULK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    import psutil

    from bench.ways import Way

GIB = 1 << 30

Costs = dict[str, dict[str, float]]
"""Seconds of CPU a unit, by way and process."""


async def cost_a_request(ways: Iterable[Way], *, connections: int, requests: int, rounds: int) -> Costs:
    """Of a POST of 1 KB, answered with 1 KB, on keep-alive connections."""

    async def work(way: Way, count: int = requests) -> float:
        await full_load(way.open, post(way.echo), connections=connections, requests=count)
        return count

    for way in ways:
        await work(way, connections * 10)  # code paths seen, windows grown
    return await _take_turns(ways, work, rounds)


async def cost_at_a_pace(ways: Iterable[Way], *, connections: int, rate: float, seconds: float, rounds: int) -> Costs:
    """Of the same request, `rate` of them a second on every way. At full load a way that is quicker all in all wakes up for
    more requests at once, which makes each of its processes cheaper, whichever of them it is that is quick.
    """

    async def work(way: Way) -> float:
        return (await paced_load(way.open, post(way.echo), connections=connections, seconds=seconds, rate=rate)).requests

    return await _take_turns(ways, work, rounds)


async def cost_a_gib(ways: Iterable[Way], *, downloads: int, rounds: int) -> Costs:
    """Of downloads, two at a time."""

    async def work(way: Way) -> float:
        await full_load(way.events, get(way.stream, "/bulk"), connections=2, requests=downloads)
        return downloads * BULK / GIB

    return await _take_turns(ways, work, rounds)


async def _take_turns(ways: Iterable[Way], work: Callable[[Way], Awaitable[float]], rounds: int) -> Costs:
    """`work` tells how many units it did."""
    used: Costs = {way.name: defaultdict(float) for way in ways}
    for _ in range(rounds):
        for way in ways:
            before = {hop: cpu(process) for hop, process in way.hops.items()}
            units = await work(way)
            for hop, process in way.hops.items():
                used[way.name][hop] += (cpu(process) - before[hop]) / (units * rounds)
    return used


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
