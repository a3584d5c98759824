"""What an idle event stream costs each hop in memory, and what it still costs after a burst on every one of them.

A chain of its own: heaps that other loads have grown would hide what these streams need.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import psutil
from tests.support.chain import Chain

from bench.load import full_load, get, post
from bench.upstream import BURST
from bench.ways import tunnelled
from penstock.client.streams import TunnelStreams
from penstock.net.loop import raise_descriptor_limit
from penstock.telemetry.metrics import GC_PAUSE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from bench.ways import Way

HOPS = ("edge", "agent", "proxy")
AT_ONCE = 16  # handshakes
SETTLE_SECONDS = 10.0
PATIENCE = 600.0  # a GiB in all leaves in bursts, through every hop and on a machine that others use too


@dataclass(frozen=True)
class Memory:
    """KiB a stream, by hop."""

    streams: int
    idle: dict[str, float]
    after_burst: dict[str, float]
    pauses: dict[str, float]
    """Seconds of each hop's longest garbage collection."""


class Idle(asyncio.Protocol):
    """One event stream; it counts what came and keeps nothing."""

    def __init__(self) -> None:
        self.received = 0
        self.transport: asyncio.Transport | None = None

    def take(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_protocol(self)
        transport.resume_reading()

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)


async def idle_streams(folder: Path, upstream: int, *, count: int) -> Memory:
    raise_descriptor_limit()
    async with Chain(folder, {"events": f"http://127.0.0.1:{upstream}", "echo": f"http://127.0.0.1:{upstream}"}) as chain:
        streams = TunnelStreams(chain.access)
        processes = {hop: psutil.Process(chain.roles[hop].process.pid) for hop in HOPS}
        way = tunnelled("chain", chain.stack.domain, streams, processes)
        try:
            await full_load(way.open, post(way.echo), connections=32, requests=640)  # what is built at first use is no stream's
            before = resident(processes)
            idle = await open_all(way, count)
            await until(lambda: all(stream.received for stream in idle))
            await asyncio.sleep(SETTLE_SECONDS)
            at_rest = resident(processes)
            asking = Idle()
            await way.events(asking)  # pyright: ignore[reportArgumentType]  # as in `open_all`
            asking.send(post(way.stream).replace(b"/mcp", b"/burst", 1))
            await until(lambda: all(stream.received > BURST for stream in idle))
            await asyncio.sleep(SETTLE_SECONDS)
            after = resident(processes)
            pauses = await longest_pauses(chain)
            for stream in idle:
                if stream.transport is not None:
                    stream.transport.abort()
        finally:
            await streams.aclose()
    return Memory(
        count,
        {hop: (at_rest[hop] - before[hop]) / count / 1024 for hop in HOPS},
        {hop: (after[hop] - before[hop]) / count / 1024 for hop in HOPS},
        pauses,
    )


async def longest_pauses(chain: Chain) -> dict[str, float]:
    ports = {"edge": chain.ports.edge_admin, "agent": chain.ports.agent_metrics, "proxy": chain.ports.proxy_admin}
    async with httpx2.AsyncClient(trust_env=False) as client:
        pages = {hop: (await client.get(f"http://{port}/metrics")).text for hop, port in ports.items()}
    return {hop: float(page.partition(f"\n{GC_PAUSE} ")[2].split()[0]) for hop, page in pages.items()}


async def open_all(way: Way, count: int) -> list[Idle]:
    opened: list[Idle] = []
    open_it: Callable[[Idle], Awaitable[None]] = way.events  # pyright: ignore[reportAssignmentType]  # it takes a transport too

    async def open_some() -> None:
        while len(opened) < count:
            stream = Idle()
            opened.append(stream)
            await open_it(stream)
            stream.send(get(way.stream, "/events"))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(open_some())
    return opened


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.2)


def resident(processes: dict[str, psutil.Process]) -> dict[str, int]:
    return {hop: process.memory_info().rss for hop, process in processes.items()}
