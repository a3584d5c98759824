"""WebSocket upgrades of a caller's, passed to the upstream."""

from __future__ import annotations

import pytest
from tests.proxy.rig import Link, Script, get, rig

from penstock.net.transports import cut

pytestmark = pytest.mark.anyio

ASK = get(headers="Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: a2V5\r\n")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: yes\r\n\r\n"


def switching(then: Script) -> Script:
    async def script(link: Link) -> None:
        head = await link.until(b"\r\n\r\n")
        assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"Sec-WebSocket-Key: a2V5\r\n" in head
        await link.send(SWITCH)
        await then(link)

    return script


async def echo(link: Link) -> None:
    while data := await link.read():
        await link.send(data)


async def test_after_an_upgrade_bytes_pass_both_ways_as_they_are() -> None:
    async with rig(switching(echo)) as r:
        link = await r.connect()
        await link.send(ASK)
        head = await link.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"Sec-WebSocket-Accept: yes\r\n" in head
        for said in (b"\x81\x85abcd", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 70000):
            await link.send(said)
            assert await link.exactly(len(said)) == said


async def test_what_a_caller_says_too_early_follows_the_upgrade() -> None:
    async with rig(switching(echo)) as r:
        link = await r.connect()
        await link.send(ASK + b"early")
        await link.until(b"\r\n\r\n")
        assert await link.exactly(5) == b"early"


async def test_an_upstream_that_ends_ends_the_caller_with_all_it_said() -> None:
    async def bye(link: Link) -> None:
        await link.send(b"bye")

    async with rig(switching(bye)) as r:
        link = await r.connect()
        await link.send(ASK)
        await link.until(b"\r\n\r\n")
        assert await link.rest() == b"bye"
        await r.until(lambda: bool(r.events("request ended")))
        assert r.events("request ended")[0]["status"] == 101


async def test_a_caller_that_ends_ends_the_upstream_with_all_it_said() -> None:
    heard: list[bytes] = []

    async def listen(link: Link) -> None:
        heard.append(await link.rest())

    async with rig(switching(listen)) as r:
        link = await r.connect()
        await link.send(ASK)
        await link.until(b"\r\n\r\n")
        await link.send(b"last words")
        link.writer.write_eof()
        await r.until(lambda: bool(heard))
        assert heard == [b"last words"]


async def test_a_caller_that_is_cut_cuts_the_upstream() -> None:
    ended: list[str] = []

    async def listen(link: Link) -> None:
        try:
            while await link.read():
                pass
            ended.append("clean")
        except ConnectionResetError:
            ended.append("cut")

    async with rig(switching(listen)) as r:
        link = await r.connect()
        await link.send(ASK)
        await link.until(b"\r\n\r\n")
        cut(link.writer.transport)  # a reset; asyncio's own abort would send a clean end
        await r.until(lambda: bool(ended))
        assert ended == ["cut"]


async def test_an_upgrade_that_is_declined_is_an_answer_like_any_other() -> None:
    async def script(link: Link) -> None:
        for _ in range(2):
            await link.request()
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")

    async with rig(script) as r:
        link = await r.connect()
        for _ in range(2):
            await link.send(ASK)
            assert (await link.response()).body == b"no"


@pytest.mark.parametrize(
    "ask",
    [
        get(headers="Upgrade: h2c\r\nConnection: Upgrade\r\n"),
        get(headers="Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n"),
        get(headers="Upgrade: websocket\r\n"),
        get(headers="Upgrade: websocket\r\nConnection: Upgrade\r\n", method="OPTIONS"),
        get(headers="Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 1\r\n") + b"x",
    ],
)
async def test_any_other_upgrade_is_not_offered_and_not_taken(ask: bytes) -> None:
    heads: list[bytes] = []

    async def script(link: Link) -> None:
        heads.append(await link.until(b"\r\n\r\n"))
        await link.send(SWITCH)

    async with rig(script) as r:
        got = await r.fetch(ask)
        assert (got.status, got.error) == (502, b"upstream_protocol")
        assert b"upgrade" not in heads[0].lower()


async def test_an_upstream_may_switch_to_nothing_else() -> None:
    async def script(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")

    async with rig(script) as r:
        assert (await r.fetch(ASK)).error == b"upstream_protocol"


async def test_draining_ends_an_upgraded_stream_at_once_with_all_that_was_said() -> None:
    heard: list[bytes] = []

    async def listen(link: Link) -> None:
        await link.send(b"hello")
        heard.append(await link.rest())

    async with rig(switching(listen)) as r:
        link = await r.connect()
        await link.send(ASK)
        await link.until(b"hello")
        r.service.is_draining = True
        for pipeline in list(r.pipelines):
            pipeline.drain()
        assert await link.is_ended()
        await r.until(lambda: heard == [b""])
