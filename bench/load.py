"""The load: small POSTs on keep-alive connections, the same bytes directly to the upstream and through the chain.

Full load is a closed loop: each connection asks again as soon as it is answered. Latency is measured apart, in an open loop:
requests are due at Poisson times, and a request's latency counts from when it was due, so that a stall is paid by everyone
who would have waited (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REQUEST_BODY = (
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"' + b"x" * 160 + b'"}}}'
)


def request(host: str) -> bytes:
    """One POST, about 400 bytes."""
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nContent-Length: {len(REQUEST_BODY)}\r\n\r\n"
    )
    return head.encode() + REQUEST_BODY


@dataclass(frozen=True)
class Result:
    """What one run of the load saw."""

    requests: int
    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def percentile(self, percent: float) -> float:
        """Milliseconds."""
        return statistics.quantiles(self.latencies, n=1000, method="inclusive")[int(percent * 10) - 1] * 1e3


class Connection(asyncio.Protocol):
    """One keep-alive connection; `ask` sends, `on_answer` is called when the answer is whole."""

    def __init__(self, message: bytes, on_answer: Callable[[Connection], None]) -> None:
        self.message = message
        self.on_answer = on_answer
        self.expected = 0
        self.buffer = b""
        self.lost: Exception | None = None

    def take(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_protocol(self)
        transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc or ConnectionError("the connection ended")

    def ask(self) -> None:
        if self.lost is not None:
            raise self.lost
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        if self.expected:
            self.expected -= len(data)
        else:
            self.buffer += data
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                self.transport.abort()
                self.lost = ConnectionError(self.buffer[:end].decode(errors="replace"))
                return
            start = head.index(b"content-length:") + 15
            self.expected = int(head[start:].split(b"\r\n", 1)[0]) - (len(self.buffer) - end - 4)
            self.buffer = b""
        if self.expected == 0:
            self.on_answer(self)


Open = "Callable[[Connection], Awaitable[None]]"


async def full_load(
    open_connection: Callable[[Connection], Awaitable[None]], message: bytes, *, connections: int, seconds: float
) -> Result:
    """Closed loop on `connections`; latencies are from send to answer."""
    loop = asyncio.get_running_loop()
    sent: dict[Connection, float] = {}
    latencies: list[float] = []
    finished = loop.create_future()
    stop_at = [float("inf")]

    def answered(connection: Connection) -> None:
        now = time.perf_counter()
        latencies.append(now - sent[connection])
        if now < stop_at[0]:
            sent[connection] = now
            connection.ask()
        else:
            del sent[connection]
            if not sent and not finished.done():
                finished.set_result(now)

    opened = [Connection(message, answered) for _ in range(connections)]
    for connection in opened:
        await open_connection(connection)
    started = time.perf_counter()
    stop_at[0] = started + seconds
    for connection in opened:
        sent[connection] = time.perf_counter()
        connection.ask()
    async with asyncio.timeout(seconds + 30):
        ended = await finished
    for connection in opened:
        connection.transport.close()
    return Result(len(latencies), ended - started, latencies)


async def paced_load(
    open_connection: Callable[[Connection], Awaitable[None]], message: bytes, *, connections: int, seconds: float, rate: float
) -> Result:
    """Open loop at `rate` a second; a request that finds no free connection waits, and its latency with it."""
    due: deque[float] = deque()
    serving: dict[Connection, float] = {}
    free: deque[Connection] = deque()
    latencies: list[float] = []
    idle = asyncio.Event()

    def answered(connection: Connection) -> None:
        latencies.append(time.perf_counter() - serving.pop(connection))
        free.append(connection)
        send()
        if not (due or serving):
            idle.set()

    def send() -> None:
        while due and free:
            connection = free.popleft()
            serving[connection] = due.popleft()
            connection.ask()

    opened = [Connection(message, answered) for _ in range(connections)]
    for connection in opened:
        await open_connection(connection)
    free.extend(opened)
    dice = random.Random(1)
    started = next_due = time.perf_counter()
    while next_due < started + seconds:
        next_due += dice.expovariate(rate)
        await asyncio.sleep(max(0.0, next_due - time.perf_counter()))  # the pace itself
        due.append(next_due)
        send()
    async with asyncio.timeout(30):
        while due or serving:
            idle.clear()
            await idle.wait()
    ended = time.perf_counter()
    for connection in opened:
        connection.transport.close()
    return Result(len(latencies), ended - started, latencies)
