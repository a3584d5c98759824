"""1 GiB through the four roles as four processes, against somebody slow: what each of them needs for it at most."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from typing import TYPE_CHECKING

import httpx2
import psutil
import pytest
from tests.support.chain import Chain
from tests.support.world import Upstream

from penstock.client.transport import TunnelTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(300)]

CHUNK = random.Random(4).randbytes(1 << 20)
COUNT = 1024
HOPS = ("edge", "agent", "proxy")
# Windows and watermarks are under 3 MiB a stream in all (2 MiB were measured); the rest is for other allocators. A hop that
# holds what it is sent would grow by 50 MB in each stall.
GROWTH = 8 << 20
STALLS, STALL_SECONDS = 10, 0.5
SAMPLE_SECONDS = 0.02


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


class Peaks:
    """The largest resident size of each hop since the beginning, and how much that is more than at the beginning."""

    def __init__(self, chain: Chain) -> None:
        self._processes = {hop: psutil.Process(chain.roles[hop].process.pid) for hop in HOPS}
        self._first = self._now()
        self._most = dict(self._first)

    def _now(self) -> dict[str, int]:
        return {hop: process.memory_info().rss for hop, process in self._processes.items()}

    async def watch(self) -> None:
        while True:
            for hop, size in self._now().items():
                self._most[hop] = max(self._most[hop], size)
            await asyncio.sleep(SAMPLE_SECONDS)

    @property
    def growth(self) -> dict[str, int]:
        return {hop: self._most[hop] - self._first[hop] for hop in HOPS}


@contextlib.asynccontextmanager
async def watched(chain: Chain) -> AsyncIterator[Peaks]:
    peaks = Peaks(chain)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(peaks.watch())
        yield peaks
        watching.cancel()


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Chain, Upstream, httpx2.AsyncClient]]:
    """A chain that has served a request: what is built at first use is not counted."""
    async with Upstream() as upstream, Chain(folder, {"echo": upstream.url}) as chain:
        timeout = httpx2.Timeout(60.0)
        async with httpx2.AsyncClient(transport=TunnelTransport(chain.access), timeout=timeout) as client:
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(client.get(chain.url("echo")))
                await (await upstream.visit()).answer()
                assert (await asked).text == "ok"
            yield chain, upstream, client


async def stall(done: int) -> None:
    """Somebody slow: takes a tenth of it, then nothing for a while."""
    if done % (COUNT // STALLS) == 0:
        await asyncio.sleep(STALL_SECONDS)


def assert_bounded(peaks: Peaks) -> None:
    assert all(size < GROWTH for size in peaks.growth.values()), {hop: size >> 20 for hop, size in peaks.growth.items()}


async def test_1_gib_to_a_slow_reader_grow_no_hop_by_more_than_a_few_windows(tmp_path: Path) -> None:
    async with running(tmp_path) as (chain, upstream, client), watched(chain) as peaks, asyncio.TaskGroup() as group:
        asked = group.create_task(client.send(client.build_request("GET", chain.url("echo")), stream=True))
        visit = await upstream.visit()
        await visit.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (COUNT * len(CHUNK)))

        async def send() -> None:
            for _ in range(COUNT):
                await visit.write(CHUNK)

        group.create_task(send())
        response = await asked
        digest, received = hashlib.sha256(), 0
        async for part in response.aiter_raw(len(CHUNK)):
            await stall(received // len(CHUNK))
            digest.update(part)
            received += len(part)
        assert received == COUNT * len(CHUNK)
        assert digest.digest() == of_all()
    assert_bounded(peaks)


async def test_1_gib_into_a_slow_upstream_grow_no_hop_by_more_than_a_few_windows(tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(COUNT):
            yield CHUNK

    async with running(tmp_path) as (chain, upstream, client), watched(chain) as peaks, asyncio.TaskGroup() as group:
        length = {"content-length": str(COUNT * len(CHUNK))}
        asked = group.create_task(client.post(chain.url("echo"), content=body(), headers=length))
        visit = await upstream.visit()
        await visit.head()
        digest = hashlib.sha256()
        for done in range(COUNT):
            await stall(done)
            digest.update(await visit.reader.readexactly(len(CHUNK)))
        assert digest.digest() == of_all()
        await visit.answer(b"all of it")
        assert (await asked).text == "all of it"
    assert_bounded(peaks)


def of_all() -> bytes:
    digest = hashlib.sha256()
    for _ in range(COUNT):
        digest.update(CHUNK)
    return digest.digest()
