from __future__ import annotations

import asyncio

import pytest
from tests.conformance.stacks import tls_contexts
from tests.support import ca
from tests.support.pair import memory_pair
from tests.support.recording import Recorder, settle

from penstock.net.streams import ByteStream
from penstock.net.tls import start_tls
from penstock.net.transports import Parked, cut

pytestmark = pytest.mark.anyio


async def test_reading_gives_what_came_and_then_the_clean_end() -> None:
    far = Recorder()
    near, wire = memory_pair(Parked(), far)
    stream = ByteStream.over(near, initial=b"early")
    wire.write(b" and late")
    assert await stream.read(3) == b"ear"
    assert await stream.read(100) == b"ly"
    assert await stream.read(100) == b" and late"
    wire.close()
    assert await stream.read(100) == b""
    assert await stream.read(100) == b""
    with pytest.raises(ConnectionError):
        await stream.write(b"too late")


async def test_an_unclean_end_raises_and_drops_what_was_not_read() -> None:
    near, wire = memory_pair(Parked(), Recorder())
    stream = ByteStream.over(near)
    wire.write(b"unread")
    await settle()
    cut(wire)
    await settle()
    with pytest.raises(ConnectionResetError):
        await stream.read(100)
    with pytest.raises(ConnectionResetError):
        await stream.write(b"x")


async def test_a_reader_that_waits_is_woken_by_the_loss() -> None:
    near, wire = memory_pair(Parked(), Recorder())
    stream = ByteStream.over(near)
    asyncio.get_running_loop().call_soon(cut, wire)
    with pytest.raises(ConnectionResetError):
        await stream.read(100)


async def test_what_waits_unread_is_bounded() -> None:
    far = Recorder()
    near, wire = memory_pair(Parked(), far)
    stream = ByteStream.over(near, limit=20_000)
    for _ in range(100):
        wire.write(bytes(10_000))
    await settle(300)
    assert far.is_full
    total = 0
    while total < 1_000_000:
        total += len(await stream.read(1_000_000))
        assert len(stream._buffer) <= 30_000


async def test_writing_waits_for_a_slow_reader() -> None:
    far = Recorder()
    near, wire = memory_pair(Parked(), far)
    stream = ByteStream.over(near)
    wire.pause_reading()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await stream.write(bytes(100_000))
    wire.resume_reading()
    async with asyncio.timeout(1):
        await stream.write(b"!")
    await far.until_received(100_001)


async def test_a_writer_that_waits_is_woken_by_the_loss() -> None:
    near, wire = memory_pair(Parked(), Recorder())
    stream = ByteStream.over(near)
    wire.pause_reading()
    asyncio.get_running_loop().call_later(0.01, cut, wire)
    with pytest.raises(ConnectionResetError):
        await stream.write(bytes(100_000))


async def test_closing_delivers_what_was_written_and_waits_until_it_is_gone() -> None:
    far = Recorder()
    near, _ = memory_pair(Parked(), far)
    stream = ByteStream.over(near)
    await stream.write(b"last words")
    await stream.aclose()
    await stream.aclose()
    assert far.received == b"last words"
    assert await far.until_lost() is None


async def test_aborting_is_an_error_to_the_peer() -> None:
    far = Recorder()
    near, _ = memory_pair(Parked(), far)
    ByteStream.over(near).abort()
    assert isinstance(await far.until_lost(), ConnectionResetError)


async def test_a_transport_that_is_gone_already_is_an_error() -> None:
    near, _ = memory_pair(Parked(), Recorder())
    near.abort()
    with pytest.raises(ConnectionResetError):
        await ByteStream.over(near).read(1)


async def test_a_handshake_can_be_waited_for_and_its_failure_raised() -> None:
    client, server = tls_contexts()
    below_client, below_server = memory_pair(Parked(), Parked())
    one, two = ByteStream(), ByteStream()
    start_tls(below_server, two, server, server_side=True, on_failed=two.fail)
    start_tls(below_client, one, client, server_side=False, server_hostname=ca.HOST, on_failed=one.fail)
    async with asyncio.timeout(5):
        await one.opened()
        await two.opened()
        await one.write(b"hello")
        assert await two.read(100) == b"hello"
        await one.aclose()
        assert await two.read(100) == b""

    below, gone = memory_pair(Parked(), Parked())
    lost = ByteStream()
    start_tls(below, lost, client, server_side=False, server_hostname=ca.HOST, on_failed=lost.fail)
    gone.close()
    with pytest.raises(ConnectionError):
        await lost.opened()
