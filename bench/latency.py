"""How long a request takes: open loops at stated rates, first events, beside a bulk download, and from far away."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.chain import Chain

from bench.download import downloading
from bench.load import Result, get, opened, paced_load, post
from bench.programs import free_port
from bench.ways import tunnelled
from penstock.client.streams import TunnelStreams
from penstock.config.types import HostPort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from bench.load import Open
    from bench.ways import Way

FAR = 0.025  # seconds each way: another coast of the same continent


# --- first events -----------------------------------------------------------------------------------------------------


class Listener(asyncio.Protocol):
    """Waits for the answer to a call, and then for the first event of a stream."""

    def __init__(self) -> None:
        self.buffer = b""
        self.mark = b""
        self.arrived: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def take(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_protocol(self)
        transport.resume_reading()

    async def ask(self, request: bytes, mark: bytes) -> float:
        """Seconds from the request until `mark` has come."""
        self.buffer, self.mark, self.arrived = b"", mark, asyncio.get_running_loop().create_future()
        asked = time.perf_counter()
        self.transport.write(request)
        async with asyncio.timeout(10):
            return await self.arrived - asked

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.arrived.done() and self.mark in self.buffer:
            self.arrived.set_result(time.perf_counter())


async def first_events(ways: Iterable[Way], *, count: int) -> dict[str, list[float]]:
    """Seconds from the request for an event stream to its first event, one stream at a time, the ways in turn.

    The connection has carried a call before, as every MCP client's has (`initialize`): a TLS 1.3 server finishes its half of
    the handshake, the caller's certificate included, after the client, and that is the connection's price and no event's.
    """
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(count):
        for way in ways:
            listener = Listener()
            await way.events(listener)  # pyright: ignore[reportArgumentType]  # it takes a transport as a Connection does
            await listener.ask(post(way.stream), b"x" * 1024)
            seconds[way.name].append(await listener.ask(get(way.stream, "/events"), b"data: "))
            listener.transport.abort()
    return seconds


def median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e3


# --- beside a bulk download -------------------------------------------------------------------------------------------


SLOW_DOWNLOAD = 12_500_000  # bytes a second: 100 Mbit/s, at which no process here is short of a core


@dataclass(frozen=True)
class Beside:
    """Small requests of one caller: alone, beside another's download as fast as it goes, and beside one at SLOW_DOWNLOAD."""

    alone: Result
    with_bulk: Result
    with_slow: Result


async def beside_bulk(all_of_them: Iterable[Way], *, rate: float, seconds: float, rounds: int) -> dict[str, Beside]:
    """Small requests at `rate`, alone and while another process downloads without a break, by turns."""
    found: dict[str, tuple[list[Result], ...]] = {}
    for _ in range(rounds):
        for way in all_of_them:
            assert way.source is not None
            slow = dataclasses.replace(way.source, rate=SLOW_DOWNLOAD)
            beside = [contextlib.nullcontext(), downloading(way.source), downloading(slow)]
            for context, results in zip(beside, found.setdefault(way.name, ([], [], [])), strict=True):
                async with context:
                    results.append(await paced_load(way.open, post(way.echo), connections=32, seconds=seconds, rate=rate))
    return {name: Beside(*(_joined(results) for results in kinds)) for name, kinds in found.items()}


def _joined(results: list[Result]) -> Result:
    latencies = [latency for result in results for latency in result.latencies]
    return Result(len(latencies), sum(result.seconds for result in results), latencies)


# --- from far away ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distant:
    """Seconds; a round trip takes 2 x FAR."""

    first_call: float
    later: Result

    @property
    def round_trips(self) -> float:
        return self.first_call / (2 * FAR)


async def far_away(folder: Path, upstream: int, *, rate: float, seconds: float) -> Distant:
    """A chain of its own whose callers are FAR from the edge: the first call of a process, and warm ones."""
    edge = HostPort("127.0.0.1", free_port())
    async with delayed(edge) as place:
        settings = {"callers_addr": str(edge), "advertise_callers": str(place)}
        async with Chain(folder, {"echo": f"http://127.0.0.1:{upstream}"}, edge_settings=settings) as chain:
            streams = TunnelStreams(chain.access)
            try:
                way = tunnelled("far", chain.stack.domain, streams, {})
                first = await _one_call(way.open, post(way.echo))
                later = await paced_load(way.open, post(way.echo), connections=32, seconds=seconds, rate=rate)
                return Distant(first, later)
            finally:
                await streams.aclose()


async def _one_call(open_connection: Open, message: bytes) -> float:
    answered = asyncio.get_running_loop().create_future()
    began = time.perf_counter()
    async with opened(open_connection, message, lambda _: answered.set_result(time.perf_counter()), 1) as (connection,):
        connection.ask()
        return await answered - began


@contextlib.asynccontextmanager
async def delayed(to: HostPort) -> AsyncIterator[HostPort]:
    """A place that leads to `to`, every byte FAR later; a connection takes a round trip, as TCP's does."""
    loop = asyncio.get_running_loop()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * FAR)  # the handshake, which loopback answers for us
        there_reader, there_writer = await asyncio.open_connection(to.host, to.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, there_writer))
            group.create_task(pump(there_reader, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def deliver(data: bytes) -> None:
            if not writer.transport.is_closing():
                writer.write(data) if data else writer.close()

        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                loop.call_later(FAR, deliver, data)
        loop.call_later(FAR, deliver, b"")

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield HostPort("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
