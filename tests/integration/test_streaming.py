"""Bytes through the whole chain: as they come, no more of them held than the windows allow, and ends that are really ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
import tracemalloc
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.support.site import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    from tests.support.world import Side, Upstream, Visit, World

    from penstock.net.streams import ByteStream

pytestmark = pytest.mark.anyio

CHUNK = random.Random(4).randbytes(65_521)  # prime, so that a lost, doubled or swapped piece shows
CYCLE = CHUNK * 3
OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
SIZE = 1024 * len(CHUNK)  # 64 MiB
# What one stalled stream may cost all hops together: a window of 1 MiB on the link, two watermarks of 64 KiB around each
# layer. A queue without bound shows at once: the other end could send all of SIZE.
HELD = 4 << 20
STILL_SECONDS = 0.05  # nothing has moved for so long
AT_ONCE = 0.1  # seconds from a cancellation to the other end of the chain
ATTEMPTS = 3  # the best of them counts: the chain is measured, not what else the machine does


@pytest.fixture(scope="module")
async def side(platform: World, upstream: Upstream) -> Side:
    return await platform.add_side({"echo": upstream.url})  # one link, so that streams share it


@contextlib.asynccontextmanager
async def asking(side: Side, head: bytes) -> AsyncIterator[ByteStream]:
    """A secured stream with a request's head on it; aborted at the end, as a pool ends one."""
    async with side.world.streams() as streams:
        pipe = await (await streams.open(side.host())).start_tls()
        await pipe.write(b"%s\r\nhost: %s\r\n\r\n" % (head, side.host().encode()))
        try:
            yield pipe
        finally:
            pipe.abort()


async def read_head(pipe: ByteStream) -> tuple[bytes, bytes]:
    """A response's head, and what came behind it."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await pipe.read(4096)
        assert data
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


class Sender:
    """Writes CHUNK after CHUNK, as fast as they are taken."""

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self.sent = 0
        self._write = write

    async def run(self) -> None:
        with contextlib.suppress(ConnectionError):
            while self.sent < SIZE:
                await self._write(CHUNK)
                self.sent += len(CHUNK)


async def stalled(group: asyncio.TaskGroup, sender: Sender) -> None:
    """Start sending, and wait until nothing moves any more."""
    sending = group.create_task(sender.run())
    last, since = -1, time.monotonic()
    async with asyncio.timeout(20):
        while time.monotonic() - since < STILL_SECONDS:
            if sender.sent != last:
                last, since = sender.sent, time.monotonic()
            await asyncio.sleep(0.005)
    assert not sending.done(), "the stall was not felt at the other end"


class Checker:
    """Compares what comes with what a Sender sends."""

    def __init__(self) -> None:
        self.received = 0

    def take(self, data: bytes) -> None:
        at = self.received % len(CHUNK)
        assert data == CYCLE[at : at + len(data)], f"other bytes within {len(data)} behind {self.received}"
        self.received += len(data)

    async def read(self, read: Callable[[int], Awaitable[bytes]], size: int = SIZE) -> None:
        while self.received < size:
            data = await read(len(CHUNK))
            assert data, f"the end after {self.received}"
            self.take(data)


@contextlib.contextmanager
def traced() -> Generator[Callable[[], int]]:
    """Bytes of Python objects more than at the beginning: every queue of ours holds such."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


# --- memory -----------------------------------------------------------------------------------------------------------


async def test_a_download_whose_reader_stalls_is_held_in_bounded_memory_and_then_delivered_whole(
    side: Side, upstream: Upstream
) -> None:
    async with asking(side, b"GET / HTTP/1.1") as pipe, asyncio.TaskGroup() as group:
        visit = await upstream.visit()
        await visit.send(OK % SIZE)
        _, rest = await read_head(pipe)
        sender, checker = Sender(visit.write), Checker()
        with traced() as growth:
            await stalled(group, sender)
            assert growth() < HELD
        checker.take(rest)
        await checker.read(pipe.read)


async def test_an_upload_whose_upstream_stalls_is_held_in_bounded_memory_and_then_delivered_whole(
    side: Side, upstream: Upstream
) -> None:
    async with asking(side, b"POST / HTTP/1.1\r\ncontent-length: %d" % SIZE) as pipe, asyncio.TaskGroup() as group:
        visit = await upstream.visit()
        await visit.head()
        sender, checker = Sender(pipe.write), Checker()
        with traced() as growth:
            await stalled(group, sender)
            assert growth() < HELD
        await checker.read(visit.reader.read)
        await visit.answer(b"all of it")
        head, rest = await read_head(pipe)
        assert (head.split()[1], rest) == (b"200", b"all of it")


async def test_memory_that_grows_would_be_seen() -> None:
    """The control of the two above."""
    with traced() as growth:
        held = [bytes(CHUNK) + b"." for _ in range(HELD // len(CHUNK) + 2)]
        assert growth() > HELD
    assert held


# --- ends -------------------------------------------------------------------------------------------------------------

FRAMINGS = {
    "length": (b"content-length: 1000000", b"%s"),
    "chunked": (b"transfer-encoding: chunked", b"186a0\r\n%s"),
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_an_upstream_that_ends_within_a_body_delivers_all_it_sent_and_is_seen_to_be_cut_short(
    side: Side, upstream: Upstream, framing: str
) -> None:
    field, form = FRAMINGS[framing]
    received = b""
    async with side.world.client() as client, asyncio.TaskGroup() as group:
        asked = group.create_task(client.send(client.build_request("GET", side.url()), stream=True))
        visit = await upstream.visit()
        await visit.head()
        await visit.send(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % field + form % CHUNK)
        visit.end()
        response = await asked
        with pytest.raises(httpx2.TransportError):  # noqa: PT012 - what came before the end counts too
            async for part in response.aiter_raw():
                received += part
    assert received == CHUNK


async def test_a_body_that_its_end_delimits_arrives_whole_and_ends_cleanly(side: Side, upstream: Upstream) -> None:
    async with side.world.client() as client, asyncio.TaskGroup() as group:
        asked = group.create_task(client.get(side.url()))
        visit = await upstream.visit()
        await visit.head()
        await visit.send(b"HTTP/1.1 200 OK\r\n\r\n" + CHUNK * 10)
        visit.end()
        assert (await asked).content == CHUNK * 10


async def test_an_upstreams_abort_reaches_the_caller_at_once(side: Side, upstream: Upstream) -> None:
    took: list[float] = []
    for _ in range(ATTEMPTS):
        async with asking(side, b"GET / HTTP/1.1") as pipe:
            visit = await upstream.visit()
            await visit.send(OK % SIZE + b"begun")
            _, rest = await read_head(pipe)
            rest = rest or await pipe.read(4096)
            began = time.monotonic()
            visit.reset()
            with pytest.raises((ConnectionError, ssl.SSLError)):  # never a clean end
                await asyncio.wait_for(pipe.read(4096), 5)
            took.append(time.monotonic() - began)
            assert rest == b"begun"
    assert min(took) < AT_ONCE


async def test_a_callers_abort_reaches_the_upstream_at_once_though_the_upload_is_stalled(
    side: Side, upstream: Upstream
) -> None:
    took: list[float] = []
    for _ in range(ATTEMPTS):
        async with asking(side, b"POST / HTTP/1.1\r\ncontent-length: %d" % SIZE) as pipe, asyncio.TaskGroup() as group:
            visit = await upstream.visit()
            await visit.head()
            await stalled(group, Sender(pipe.write))
            assert not visit.is_cut
            took.append(await seconds_until_cut(pipe, visit))
    assert min(took) < AT_ONCE, took


async def test_a_callers_abort_reaches_the_upstream_at_once_though_the_download_is_stalled(
    side: Side, upstream: Upstream
) -> None:
    took: list[float] = []
    for _ in range(ATTEMPTS):
        async with asking(side, b"GET / HTTP/1.1") as pipe, asyncio.TaskGroup() as group:
            visit = await upstream.visit()
            await visit.head()
            await visit.send(OK % SIZE)
            await stalled(group, Sender(visit.write))
            assert not visit.is_cut
            took.append(await seconds_until_cut(pipe, visit))
    assert min(took) < AT_ONCE, took


async def seconds_until_cut(pipe: ByteStream, visit: Visit) -> float:
    began = time.monotonic()
    pipe.abort()
    await until(lambda: visit.is_cut)
    return time.monotonic() - began


# --- as they come -----------------------------------------------------------------------------------------------------


async def test_an_event_arrives_while_the_upstream_still_holds_the_response(side: Side, upstream: Upstream) -> None:
    async with side.world.client() as client, asyncio.TaskGroup() as group:
        asked = group.create_task(client.send(client.build_request("GET", side.url()), stream=True))
        visit = await upstream.visit()
        await visit.head()
        await visit.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        response = await asked  # the head alone
        parts = response.aiter_raw()
        for number in range(3):
            event = b"data: %d\n\n" % number
            await visit.send(b"%x\r\n%s\r\n" % (len(event), event))
            assert await asyncio.wait_for(anext(parts), 5) == event  # before the next one is sent
        await visit.send(b"0\r\n\r\n")
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(parts), 5)
        visit.end()


async def test_a_request_body_arrives_while_the_caller_still_holds_it(side: Side, upstream: Upstream) -> None:
    async with asking(side, b"POST / HTTP/1.1\r\ncontent-length: 10") as pipe:
        visit = await upstream.visit()
        await visit.head()
        for piece in (b"first", b"other"):
            await pipe.write(piece)
            assert await asyncio.wait_for(visit.reader.readexactly(5), 5) == piece
        await visit.answer()


@pytest.mark.parametrize("who", ["caller", "upstream"])
async def test_a_stream_that_is_cut_disturbs_no_other_on_its_link(side: Side, upstream: Upstream, who: str) -> None:
    async with asyncio.TaskGroup() as group, asking(side, b"GET /a HTTP/1.1") as a, asking(side, b"GET /b HTTP/1.1") as b:
        visits = [await upstream.visit(), await upstream.visit()]
        heads = [await visit.head() for visit in visits]
        visit_a, visit_b = visits if heads[0].startswith(b"GET /a") else reversed(visits)
        checkers = Checker(), Checker()
        for visit, pipe, checker in zip((visit_a, visit_b), (a, b), checkers, strict=True):
            await visit.send(OK % SIZE)
            _, rest = await read_head(pipe)
            checker.take(rest)
            group.create_task(Sender(visit.write).run())
            await checker.read(pipe.read, SIZE // 16)
        if who == "caller":
            a.abort()
        else:
            visit_a.reset()
        await checkers[1].read(b.read, SIZE // 4)
        assert checkers[0].received < SIZE
        visit_b.reset()
