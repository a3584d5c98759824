"""Callers that call without a pause or hold a stream each, and a server for them: what a fault costs is what they see."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2
from tests.support.site import until

from penstock.client.transport import TunnelTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from penstock.client.access import Access

CALLERS = 8
_TOGETHER = 20  # callers that begin at the same time


@contextlib.asynccontextmanager
async def answering() -> AsyncIterator[str]:
    """The URL of a server that answers `ok` to every request, except that the answer to `/held` goes on for ever."""
    server = await asyncio.start_server(_keep_answering, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()  # uvloop's loop does not close while one listens: a test that failed would hang


async def _keep_answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /held "):
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nheld\n\r\n")
                await reader.read()
                break
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    writer.close()


@dataclass
class Load:
    """Callers of one process that call without a pause; what failed, and how long the slowest took."""

    url: str
    transport: TunnelTransport
    calls: int = 0
    slowest: float = 0.0
    since: float = 0.0
    failures: list[BaseException] = field(default_factory=list)

    def restart_the_clock(self) -> None:
        """Only calls that begin from now on count for `slowest`."""
        self.slowest, self.since = 0.0, asyncio.get_running_loop().time()

    async def call(self, client: httpx2.AsyncClient) -> None:
        began = asyncio.get_running_loop().time()
        try:
            answer = await client.get(self.url)
            assert (answer.status_code, answer.text) == (200, "ok")
        except (httpx2.HTTPError, AssertionError) as exc:
            self.failures.append(exc)
        self.calls += 1
        if began >= self.since:
            self.slowest = max(self.slowest, asyncio.get_running_loop().time() - began)

    async def run(self, client: httpx2.AsyncClient) -> None:
        while True:
            await self.call(client)
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def calling(access: Access, url: str, callers: int = CALLERS) -> AsyncIterator[Load]:
    """That many callers of one process, which has heard from every edge it uses."""
    transport = TunnelTransport(access)
    transport._streams.events.settle_seconds = 0.0
    async with httpx2.AsyncClient(transport=transport, timeout=10.0) as client, asyncio.TaskGroup() as group:
        running = Load(url, transport)
        tasks = [group.create_task(running.run(client)) for _ in range(callers)]
        await until(lambda: running.calls >= 3 * callers and bool(transport._streams.events.standing), seconds=30)
        yield running
        for task in tasks:
            task.cancel()


@dataclass
class Held:
    """Callers that each hold a stream; those whose streams are cut make their next calls at once, all of them together."""

    url: str
    client: httpx2.AsyncClient
    transport: TunnelTransport
    holding: int = 0
    cut: int = 0
    took: list[float] = field(default_factory=list)
    """Seconds of each call that followed a cut, and was answered."""
    failures: list[BaseException] = field(default_factory=list)

    async def run(self) -> None:
        with contextlib.suppress(httpx2.TransportError):
            async with self.client.stream("GET", f"{self.url}held", timeout=None) as answer:
                async for _ in answer.aiter_bytes():
                    self.holding += 1
        self.holding -= 1
        self.cut += 1
        began = asyncio.get_running_loop().time()
        try:
            answer = await self.client.get(self.url)
            assert (answer.status_code, answer.text) == (200, "ok")
            self.took.append(asyncio.get_running_loop().time() - began)
        except (httpx2.HTTPError, AssertionError) as exc:
            self.failures.append(exc)


@contextlib.asynccontextmanager
async def holding(access: Access, url: str, streams: int) -> AsyncIterator[Held]:
    """That many callers of one process, each with a stream that lives."""
    transport = TunnelTransport(access, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None))
    async with httpx2.AsyncClient(transport=transport, timeout=10.0) as client, asyncio.TaskGroup() as group:
        held = Held(url, client, transport)
        tasks: list[asyncio.Task[None]] = []
        for begun in range(_TOGETHER, streams + 1, _TOGETHER):
            tasks += [group.create_task(held.run()) for _ in range(_TOGETHER)]
            await until(lambda begun=begun: held.holding + held.cut >= begun, seconds=30)
        yield held
        for task in tasks:
            task.cancel()
