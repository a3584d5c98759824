"""The load: requests on keep-alive connections, the same bytes on every way to the upstream.

Full load is a closed loop: each connection asks again as soon as it is answered, until so many requests were made. Latency
is measured apart, in an open loop: requests are due at Poisson times, and a request's latency counts from when it was due,
so that a stall is paid by everyone who would have waited (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 120.0  # seconds for a run that others on the machine slow down; then it has failed

_CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"%s"}}}'
BODY = _CALL % (b"x" * (1024 - len(_CALL) + 2))


def post(host: str) -> bytes:
    """A tool call of 1 KB."""
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


def get(host: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode()


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
        self.transport: asyncio.Transport | None = None

    def close(self) -> None:
        if self.lost is None and self.transport is not None:
            self.transport.close()

    def take(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_protocol(self)
        transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc or ConnectionError("the connection ended")

    def ask(self) -> None:
        if self.lost is not None or self.transport is None:
            raise self.lost or ConnectionError("the connection is not open")
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
                raise ConnectionError(self.buffer[:end].decode(errors="replace"))
            start = head.index(b"content-length:") + 15
            self.expected = int(head[start:].split(b"\r\n", 1)[0]) - (len(self.buffer) - end - 4)
            self.buffer = b""
        if self.expected == 0:
            self.on_answer(self)


Open = Callable[[Connection], Awaitable[None]]


async def full_load(open_connection: Open, message: bytes, *, connections: int, requests: int) -> Result:
    """Closed loop on `connections` until `requests` are answered; latencies are from send to answer."""
    finished = asyncio.get_running_loop().create_future()
    sent: dict[Connection, float] = {}
    latencies: list[float] = []
    left = requests

    def ask(connection: Connection) -> None:
        nonlocal left
        left -= 1
        sent[connection] = time.perf_counter()
        connection.ask()

    def answered(connection: Connection) -> None:
        latencies.append(time.perf_counter() - sent.pop(connection))
        if left:
            ask(connection)
        elif not sent and not finished.done():
            finished.set_result(None)

    async with opened(open_connection, message, answered, connections) as all_of_them:
        started = time.perf_counter()
        for connection in all_of_them[:requests]:
            ask(connection)
        async with asyncio.timeout(PATIENCE):
            await finished
        return Result(requests, time.perf_counter() - started, latencies)


@contextlib.asynccontextmanager
async def opened(
    open_connection: Open, message: bytes, answered: Callable[[Connection], None], count: int
) -> AsyncIterator[list[Connection]]:
    """So many connections, ready to ask."""
    connections = [Connection(message, answered) for _ in range(count)]
    try:
        for connection in connections:
            await open_connection(connection)
        yield connections
    finally:
        for connection in connections:
            connection.close()


async def paced_load(open_connection: Open, message: bytes, *, connections: int, seconds: float, rate: float) -> Result:
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

    async with opened(open_connection, message, answered, connections) as all_of_them:
        free.extend(all_of_them)
        dice = random.Random(1)
        started = next_due = time.perf_counter()
        while next_due < started + seconds:
            next_due += dice.expovariate(rate)
            await asyncio.sleep(max(0.0, next_due - time.perf_counter()))  # the pace itself
            due.append(next_due)
            send()
        async with asyncio.timeout(PATIENCE):
            while due or serving:
                idle.clear()
                await idle.wait()
        return Result(len(latencies), time.perf_counter() - started, latencies)
