from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.proxy.rig import HOST, Link, get, post, reply, rig

pytestmark = pytest.mark.anyio


async def test_many_requests_share_one_stream() -> None:
    async with rig() as r:
        link = await r.connect()
        for number in range(5):
            await link.send(post(b"%d" % number))
            assert (await link.response()).body.endswith(b"%d" % number)
        assert len(r.upstream.links) == 1


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    async with rig() as r:
        link = await r.connect()
        await link.send(b"".join(post(b"<%d>" % number) for number in range(20)))
        for number in range(20):
            assert (await link.response()).body.endswith(b"<%d>" % number)
        assert len(r.upstream.links) == 1


async def test_a_request_may_come_byte_by_byte() -> None:
    async with rig() as r:
        link = await r.connect()
        for byte in post(b"hello"):
            await link.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await link.response()).body.endswith(b"hello")


async def test_a_flood_of_refused_requests_neither_recurses_nor_grows() -> None:
    async with rig() as r:
        link = await r.connect()
        one = get(host="none.ab12cd34.tunnel.example.com")
        flood = asyncio.get_running_loop().create_task(link.send(one * (2_000_000 // len(one))))
        (pipeline,) = r.pipelines
        for _ in range(200):
            assert (await link.response()).status == 421
            assert len(pipeline._buffer) <= 1 << 18
        link.cut()
        flood.cancel()


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, b"bad_request"),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, b"bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"bad_request"),
        (b"GET /\r\n", 400, b"bad_request"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, b"bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400, b"bad_request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, b"bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 101 + b"\r\n", 431, b"head_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000, 431, b"head_too_large"),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, b"head_too_large"),
    ],
)
async def test_a_bad_head_is_answered_once_and_ends_the_stream(request_: bytes, status: int, error: bytes) -> None:
    async with rig() as r:
        link = await r.connect()
        await link.send(request_ + get())
        answer = await link.response()
        assert (answer.status, answer.error) == (status, error)
        assert answer.headers[b"connection"] == b"close"
        assert await ended(link)
        assert not r.upstream.links


async def ended(link: Link) -> bool:
    """The stream ended, whether or not the rest of what we sent was taken."""
    try:
        return await link.is_ended()
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "body", [b"x\r\n", b"5\r\nhelloX", b"5;" + b"e" * 400 + b"\r\n", b"1\n", b"0\r\n" + b"T: 1\r\n" * 2000]
)
async def test_a_bad_body_is_answered_and_ends_both_sides(body: bytes) -> None:
    async def listens(link: Link) -> None:
        await link.until(b"\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await link.rest()
        cut.set()

    cut = asyncio.Event()
    async with rig(listens) as r:
        link = await r.connect()
        await link.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await asyncio.wait_for(r.upstream.arrived.wait(), 10)
        await link.send(body)
        assert (await link.response()).status == 400
        assert await ended(link)
        await asyncio.wait_for(cut.wait(), 10)


async def test_chunked_requests_are_framed_anew_without_extensions_and_unannounced_trailers() -> None:
    async def tells(link: Link) -> None:
        head = await link.until(b"\r\n\r\n")
        body = await link.until(b"0\r\n\r\n")
        seen = head + body
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(seen), seen))

    async with rig(tells) as r:
        answer = await r.fetch(
            f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + b"3;ext=1\r\nabc\r\n02\r\nde\r\n0\r\nX: 1\r\n\r\n"
        )
        assert b"transfer-encoding: chunked" in answer.body.lower()
        assert answer.body.endswith(b"\r\n\r\n5\r\nabcde\r\n0\r\n\r\n")
        assert b"X: 1" not in answer.body
        assert b"ext" not in answer.body


async def test_close_is_honoured() -> None:
    async with rig() as r:
        link = await r.connect()
        await link.send(get(headers="Connection: close\r\n") + get())
        answer = await link.response()
        assert answer.headers[b"connection"] == b"close"
        assert await ended(link)


async def test_http_1_0_gets_a_length_or_an_end() -> None:
    async with rig(reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")) as r:
        link = await r.connect()
        await link.send(f"GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        answer = await link.response()
        assert (answer.status, answer.body) == (200, b"hello")
        assert b"transfer-encoding" not in answer.headers


async def test_a_head_that_never_ends_is_closed_in_time_however_it_drips() -> None:
    async with rig(limits={"head_timeout": "200ms"}) as r:
        link = await r.connect()
        await link.send(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            while not r.closes:
                await link.send(b"X: 1\r\n")
                await asyncio.sleep(0.01)
        assert r.closes == [1001]


async def test_a_body_that_stops_coming_is_closed_in_time() -> None:
    async with rig(limits={"body_timeout": "100ms"}) as r:
        link = await r.connect()
        await link.send(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\nabc".encode())
        answer = await link.response()
        assert (answer.status, answer.error) == (400, b"bad_request")
        assert await ended(link)
        await r.until(lambda: r.upstream.running == 0)


async def test_an_idle_stream_goes_away_in_time() -> None:
    async with rig(limits={"idle_timeout": "100ms"}) as r:
        link = await r.connect()
        await link.send(get())
        assert (await link.response()).status == 200
        assert await ended(link)
        assert r.closes == [1001]


@pytest.mark.parametrize(
    "head", [f"Content-Length: 11\r\n\r\n{'a' * 11}", "Transfer-Encoding: chunked\r\n\r\nb\r\n" + "a" * 11]
)
async def test_a_body_over_the_limit_is_refused(head: str) -> None:
    async with rig(limits={"body_bytes": 10}) as r:
        answer = await r.fetch(f"POST / HTTP/1.1\r\nHost: {HOST}\r\n{head}".encode())
        assert (answer.status, answer.error) == (413, b"too_large")


async def test_a_refused_request_leaves_the_stream_in_order() -> None:
    async with rig() as r:
        link = await r.connect()
        await link.send(post(b"abc").replace(HOST.encode(), b"wiki.example.com"))
        assert (await link.response()).status == 421
        await link.send(get())
        assert (await link.response()).status == 200


async def test_draining_ends_idle_streams_and_lets_requests_finish() -> None:
    release = asyncio.Event()

    async def slow(link: Link) -> None:
        await link.request()
        await release.wait()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await link.read()

    async with rig(slow) as r:
        idle, busy = await r.connect(), await r.connect()
        await busy.send(get())
        await asyncio.wait_for(r.upstream.arrived.wait(), 10)
        await r.until(lambda: len(r.pipelines) == 2)
        r.service.is_draining = True
        for pipeline in list(r.pipelines):
            pipeline.drain()
        assert await ended(idle)
        release.set()
        answer = await busy.response()
        assert (answer.body, answer.headers[b"connection"]) == (b"ok", b"close")
        assert await ended(busy)
