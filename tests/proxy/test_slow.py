"""Slow-loris, at every layer of the whole proxy: bytes that never stop coming do not buy time."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.proxy.rig import PATIENCE, get, rig
from tests.proxy.site import site
from tests.support.ca import HOST

from penstock.net.dial import dial_tcp
from penstock.net.streams import ByteStream
from penstock.net.upgrade import request_upgrade
from penstock.net.websocket import open_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from tests.proxy.site import Site

    from penstock.proxy.pipeline import Pipeline

pytestmark = pytest.mark.anyio

LIMIT = "200ms"
DRIP = 0.02  # ten drips within the limit: each alone would be in time
TLS_RECORD = b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb\x03\x03" + b"\x00" * 500  # a hello that says it is long


async def drip(send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    """One byte after the other, for ever or until the other side has had enough."""
    try:
        for index in range(len(data)):
            await send(data[index : index + 1])
            await asyncio.sleep(DRIP)
    except (OSError, ConnectionError):
        pass


@asynccontextmanager
async def dripping(send: Callable[[bytes], Awaitable[None]], data: bytes) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(drip(send, data))
        yield
        task.cancel()


async def ended(stream: ByteStream) -> bytes:
    """What it said until its end, however it ended."""
    said = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while data := await stream.read(65536):
                said += data
    except OSError:
        pass
    return said


@asynccontextmanager
async def inside_websocket(s: Site) -> AsyncGenerator[ByteStream]:
    lower = await dial_tcp("127.0.0.1", s.proxy.address.port)
    try:
        answer = await request_upgrade(lower, host=HOST)
        stream = ByteStream()
        open_websocket(lower, stream, client_side=True, initial=answer.rest)
        yield stream
    finally:
        lower.abort()


async def test_an_upgrade_that_drips_is_answered_and_let_go(tmp_path: Path) -> None:
    async with site(tmp_path, limits={"handshake_timeout": LIMIT}) as s:
        stream = ByteStream.over(await dial_tcp("127.0.0.1", s.proxy.address.port))
        async with dripping(stream.write, b"GET / HTTP/1.1\r\nX: " + b"x" * 500):
            assert b" 400 " in await ended(stream)
        assert s.events("stream refused")
        stream.abort()


async def test_a_hello_that_drips_through_the_websocket_is_let_go(tmp_path: Path) -> None:
    async with site(tmp_path, limits={"handshake_timeout": LIMIT}) as s, inside_websocket(s) as stream:
        async with dripping(stream.write, TLS_RECORD):
            await ended(stream)
        assert s.events("tls handshake failed")[0]["reason"] == "timed out"


async def test_a_websocket_frame_that_drips_is_let_go(tmp_path: Path) -> None:
    async with site(tmp_path, limits={"handshake_timeout": LIMIT}) as s:
        lower = await dial_tcp("127.0.0.1", s.proxy.address.port)
        await request_upgrade(lower, host=HOST)
        stream = ByteStream.over(lower)
        frame = b"\x82\xfe\x01\xf4mask" + b"\x00" * 500  # never whole in time
        async with dripping(stream.write, frame):
            await ended(stream)
        assert s.events("tls handshake failed")[0]["reason"] == "timed out"
        stream.abort()


async def test_a_request_that_drips_inside_inner_tls_is_let_go(tmp_path: Path) -> None:
    async with site(tmp_path, limits={"head_timeout": LIMIT}) as s, s.caller() as stream:
        async with dripping(stream.send, get(headers="X: " + "x" * 500 + "\r\n")):
            await ended(stream._stream)
        assert stream.close_code == 1001
        assert not s.upstream.links


async def test_a_body_that_stops_inside_inner_tls_is_told_and_let_go(tmp_path: Path) -> None:
    async with site(tmp_path, limits={"body_timeout": LIMIT}) as s, s.caller() as stream:
        await stream.send(get(method="POST", headers="Content-Length: 1000\r\n") + b"x")
        assert b" 400 " in await ended(stream._stream)
        await s.until(lambda: not s.upstream.running)


async def test_a_stream_that_says_nothing_is_let_go(tmp_path: Path) -> None:
    async with site(tmp_path, limits={"idle_timeout": LIMIT}) as s, s.caller() as stream:
        await ended(stream._stream)
        assert (stream.close_code, stream.close_reason) == (1001, "going away")


async def test_a_head_that_comes_byte_by_byte_costs_as_little_at_its_end_as_at_its_beginning() -> None:
    """Each byte is a read, and there may be tens of thousands: what is looked at again each time stops everybody."""
    ratios: list[float] = []
    for _ in range(3):
        async with rig() as r:
            await r.connect()
            await r.until(lambda r=r: r.pipelines)
            (pipeline,) = r.pipelines

            def feed(count: int, pipeline: Pipeline = pipeline) -> float:
                began = time.process_time()
                for _ in range(count):
                    pipeline.data_received(b"a")
                return time.process_time() - began

            pipeline.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
            first = feed(3000)
            feed(24_000)
            ratios.append(feed(3000) / first)
    assert min(ratios) < 5  # 18, where every byte looked at all before it
