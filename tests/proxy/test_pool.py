from __future__ import annotations

import asyncio

import pytest
from tests.proxy.rig import HOST, Link, get, hello, post, rig

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_connection_is_used_again_from_any_stream() -> None:
    async with rig() as r:
        for _ in range(3):
            assert (await r.fetch(get())).status == 200
        assert len(r.upstream.links) == 1
        assert (r.service.pool.idle, r.service.pool.open) == (1, 1)


async def test_requests_at_once_have_a_connection_each() -> None:
    async with rig() as r:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(r.fetch(post(b"x" * 100_000)))
        assert 1 <= r.service.pool.idle <= 4
        assert r.service.pool.open == r.service.pool.idle


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        OK + b"\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_says_more_than_it_was_asked_is_not_used_again(answer: bytes) -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.send(answer)
        await link.read()

    async with rig(script) as r:
        for _ in range(2):
            got = await r.fetch(get())
            assert got.status in {200, 204}
            assert got.body in {b"ok", b""}
        await r.until(lambda: r.service.pool.open == 0)
        assert len(r.upstream.links) == 2


async def test_a_byte_on_an_idle_connection_discards_it() -> None:
    forge = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await link.send(OK)
        await forge.wait()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        await link.read()

    async with rig(script) as r:
        assert (await r.fetch(get())).body == b"ok"
        assert r.service.pool.idle == 1
        forge.set()
        await r.until(lambda: r.service.pool.open == 0)
        assert (await r.fetch(get())).body == b"ok"
        assert len(r.upstream.links) == 2


async def test_an_idle_connection_that_ends_is_discarded() -> None:
    async def once(link: Link) -> None:
        await link.request()
        await link.send(OK)

    async with rig(once) as r:
        assert (await r.fetch(get())).body == b"ok"
        await r.until(lambda: r.service.pool.open == 0)
        assert (await r.fetch(get())).body == b"ok"


async def test_idle_connections_are_closed_in_time() -> None:
    async with rig(limits={"upstream_idle": "100ms"}) as r:
        assert (await r.fetch(get())).status == 200
        assert r.service.pool.idle == 1
        await r.until(lambda: r.service.pool.open == 0)
        await r.until(lambda: r.upstream.running == 0)


async def test_idle_connections_are_bounded() -> None:
    arrived = 0
    release = asyncio.Event()

    async def script(link: Link) -> None:
        nonlocal arrived
        while True:
            await link.request()
            arrived += 1
            await release.wait()
            await link.send(OK)

    async with rig(script, limits={"upstream_idle_connections": 2}) as r:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(r.fetch(get()))
            await r.until(lambda: arrived == 5)
            release.set()
        assert r.service.pool.idle == 2
        assert r.service.pool.open == 2


def stale() -> tuple[object, list[str]]:
    """An upstream whose first connection dies, without a word, on its second request."""
    seen: list[str] = []

    async def script(link: Link) -> None:
        is_first = not seen
        while True:
            head, _ = await link.request()
            seen.append(head.split(b" ")[0].decode())
            if is_first and len(seen) == 2:
                link.cut()
                return
            await link.send(OK)

    return script, seen


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "HEAD"])
async def test_a_request_that_may_be_repeated_is_sent_again_once_on_a_fresh_connection(method: str) -> None:
    script, seen = stale()
    async with rig(script) as r:  # type: ignore[arg-type]
        assert (await r.fetch(get())).status == 200
        assert (await r.fetch(get(method=method), method)).status == 200
        assert seen == ["GET", method, method]
        assert len(r.upstream.links) == 2


@pytest.mark.parametrize(
    "request_", [post(b"abc"), post(b""), f"PUT / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc".encode()]
)
async def test_a_request_that_may_not_be_repeated_is_a_502(request_: bytes) -> None:
    script, seen = stale()
    async with rig(script) as r:  # type: ignore[arg-type]
        assert (await r.fetch(get())).status == 200
        got = await r.fetch(request_)
        assert (got.status, got.error) == (502, b"upstream_protocol")
        assert len(seen) == 2


async def test_a_request_is_not_repeated_for_ever() -> None:
    served = 0

    async def dying(link: Link) -> None:
        nonlocal served
        await link.request()
        served += 1
        if served == 1:
            await link.send(OK)
            await link.request()
            served += 1
        link.cut()

    async with rig(dying) as r:
        assert (await r.fetch(get())).status == 200
        assert (await r.fetch(get())).status == 502
        assert served == 3


async def test_stopping_cuts_what_is_left() -> None:
    async with rig(hello) as r:
        assert (await r.fetch(get())).status == 200
        await r.service.pool.aclose()
        assert r.service.pool.open == 0
