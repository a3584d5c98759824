"""Streams of events: kept alive, ended between two events, cut when somebody stalls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.proxy.rig import Link, Rig, get, hello, post, rig

from penstock.proxy.bodies import ChunkedBody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.proxy.rig import Script

pytestmark = pytest.mark.anyio

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LISTEN = post(b"{}", headers="Mcp-Method: subscriptions/listen\r\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def saying(*pieces: bytes, head: bytes = EVENTS) -> Script:
    """An upstream that says these, and then nothing for ever."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(head)
        for piece in pieces:
            await link.send(chunk(piece))
        await link.read()

    return script


def drain(r: Rig) -> None:
    r.service.is_draining = True
    for pipeline in list(r.pipelines):
        pipeline.drain()


# --- keep-alive -------------------------------------------------------------------------------------------------------


async def test_a_silent_upstream_is_covered_by_comments_between_events() -> None:
    async with rig(saying(b"data: 1\n\n"), sse_keepalive=0.02) as r:
        link = await r.connect()
        await link.send(get())
        await link.until(chunk(b"data: 1\n\n"))
        assert await link.exactly(len(chunk(b":\n\n")) * 2) == chunk(b":\n\n") * 2


async def test_no_comment_is_put_into_an_event_that_is_under_way() -> None:
    release = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await link.send(EVENTS + chunk(b"data: 1\n"))
        await release.wait()
        await link.send(chunk(b"data: 2\n\n"))
        await link.read()

    async with rig(script, sse_keepalive=0.01) as r:
        link = await r.connect()
        await link.send(get())
        await link.until(chunk(b"data: 1\n"))
        await asyncio.sleep(0.1)  # ten times the silence: a comment would have come
        release.set()
        assert await link.exactly(len(chunk(b"data: 2\n\n"))) == chunk(b"data: 2\n\n")
        await link.until(chunk(b":\n\n"))


@pytest.mark.parametrize(
    ("head", "keepalive"),
    [
        (EVENTS, 0.0),
        (EVENTS.replace(b"text/event-stream", b"application/json"), 0.01),
        (EVENTS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), 0.01),
    ],
)
async def test_anything_else_passes_as_it_is(head: bytes, keepalive: float) -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.send(head)
        await asyncio.sleep(0.1)
        await link.send(chunk(b"done\n\n") + b"0\r\n\r\n")

    async with rig(script, sse_keepalive=keepalive) as r:
        assert (await r.fetch(get())).body == b"done\n\n"


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [get(), LISTEN])
async def test_a_standing_stream_ends_at_once_and_in_order(request_: bytes) -> None:
    async with rig(saying(b"data: 1\n\n")) as r:
        link = await r.connect()
        await link.send(request_)
        await link.until(chunk(b"data: 1\n\n"))
        drain(r)
        assert await link.rest() == b"0\r\n\r\n"
        assert not r.closes
        assert r.events("request ended")[0]["outcome"] == "drained"
        await r.until(lambda: not r.upstream.running)


@pytest.mark.parametrize(
    ("under_way", "rest", "passed"),
    [
        (b"data: 1", [b"\n\ndata: 2\n\n"], b"\n\n"),
        (b"data: 1\n", [b"\ndata: 2\n\n"], b"\n"),
        (b"data: 1\r\n\r", [b"\n"], b"\n"),
        (b"data: 1", [b"00", b"\n\n", b"data: 2\n\n"], b"00\n\n"),
    ],
)
async def test_an_event_under_way_is_finished_and_no_other_begun(
    under_way: bytes, rest: Sequence[bytes], passed: bytes
) -> None:
    draining = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await link.send(EVENTS + chunk(under_way))
        await draining.wait()
        for piece in rest:
            await link.send(chunk(piece))
        await link.read()

    async with rig(script) as r:
        link = await r.connect()
        await link.send(get())
        await link.until(chunk(under_way))
        drain(r)
        draining.set()
        body = await link.rest()
        assert _decoded(body) == passed


async def test_a_standing_stream_that_begins_while_stopping_ends_at_its_beginning() -> None:
    release = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await release.wait()
        await link.send(EVENTS)
        await link.read()

    async with rig(script) as r:
        link = await r.connect()
        await link.send(get())
        await r.upstream.arrived.wait()
        await r.until(lambda: bool(r.events("request started")))
        drain(r)
        release.set()
        assert (await link.response()).body == b""
        assert await link.is_ended()


async def test_a_call_that_streams_its_answer_is_left_to_finish() -> None:
    release = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await link.send(EVENTS + chunk(b"data: 1\n\n"))
        await release.wait()
        await link.send(chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    async with rig(script) as r:
        link = await r.connect()
        await link.send(post(b"{}", headers="Mcp-Method: tools/call\r\n"))
        await link.until(chunk(b"data: 1\n\n"))
        drain(r)
        release.set()
        assert _decoded(await link.rest()) == b"data: 2\n\n"


# --- times ------------------------------------------------------------------------------------------------------------


async def test_a_response_over_its_whole_time_is_cut() -> None:
    async with rig(saying(b"data: 1\n\n"), limits={"total_timeout": 0.5}) as r:
        link = await r.connect()
        await link.send(get())
        await link.until(chunk(b"data: 1\n\n"))
        assert await link.is_ended()
        assert r.closes == [1011]
        assert r.events("request ended")[0]["outcome"] == "upstream_timeout"


async def test_a_request_over_its_whole_time_without_an_answer_is_a_504() -> None:
    async def never(link: Link) -> None:
        await link.request()
        await link.read()

    async with rig(never, limits={"total_timeout": 0.05}) as r:
        got = await r.fetch(get())
        assert (got.status, got.error) == (504, b"upstream_timeout")


async def test_a_request_in_time_leaves_no_timer_behind() -> None:
    async with rig(hello, limits={"total_timeout": 0.05}) as r:
        link = await r.connect()
        await link.send(get())
        assert (await link.response()).status == 200
        await asyncio.sleep(0.1)
        await link.send(get())
        assert (await link.response()).status == 200


async def test_a_caller_that_takes_nothing_is_let_go_and_its_upstream_with_it() -> None:
    async def flood(link: Link) -> None:
        await link.request()
        await link.send(EVENTS)
        while True:
            await link.send(chunk(b"x" * 60000))

    async with rig(flood, limits={"stall_timeout": 0.05}) as r:
        link = await r.connect()
        await link.send(get())
        await r.until(lambda: bool(r.events("request ended")))
        assert r.events("request ended")[0]["outcome"] == "caller_stalled"
        await r.until(lambda: not r.upstream.running)
        assert r.closes == [1011]


async def test_an_upstream_that_takes_nothing_is_a_504() -> None:
    is_over = asyncio.Event()

    async def deaf(link: Link) -> None:
        link.writer.transport.pause_reading()
        await is_over.wait()

    async with rig(deaf, limits={"stall_timeout": 0.05, "body_timeout": 5}) as r:
        link = await r.connect()
        await link.send(get(method="POST", headers=f"Content-Length: {1 << 30}\r\n"))
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_send_for_ever(link))
            got = await link.response("POST")
            sending.cancel()
            is_over.set()
        assert (got.status, got.error) == (504, b"upstream_timeout")


async def _send_for_ever(link: Link) -> None:
    try:
        while True:
            link.writer.write(b"x" * 65536)
            await link.writer.drain()
    except OSError:
        pass


def _decoded(body: bytes) -> bytes:
    decoder = ChunkedBody()
    decoded = decoder.feed(body)
    assert decoder.is_over
    return decoded
