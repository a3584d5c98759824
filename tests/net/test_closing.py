from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from tests.conformance.stacks import sockets
from tests.support.pair import memory_pair
from tests.support.recording import Recorder, settle

from penstock.net.closing import close_gently

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


async def test_last_words_survive_a_peer_that_is_still_sending() -> None:
    a, b = Recorder(), Recorder()
    async with sockets(a, b) as joined:
        joined.a.pause_reading()
        for _ in range(50):
            joined.b.write(bytes(65_536))
        await settle(50)
        words = bytes(range(256)) * 2_000
        closed = asyncio.Event()
        joined.a.write(words)
        close_gently(joined.a, on_closed=closed.set)
        await b.until_lost()
        assert b.received == words
        async with asyncio.timeout(2):
            await closed.wait()
        assert a.received == b""


async def test_a_peer_that_never_ends_is_let_go() -> None:
    a, b = Recorder(), Recorder()
    b.eof_received = lambda: True  # type: ignore[method-assign]  # keeps its own half open
    async with sockets(a, b) as joined:
        closed = asyncio.Event()
        close_gently(joined.a, timeout=0.05, on_closed=closed.set)
        async with asyncio.timeout(2):
            await closed.wait()


async def test_a_slow_reader_still_gets_everything() -> None:
    reader = Recorder(pause_after=1)
    transport, far = memory_pair(Recorder(), reader)
    for _ in range(40):
        transport.write(bytes(1_000))
    close_gently(transport, timeout=0.01, stall_timeout=0.2)
    while reader.calls[-1] != "connection_lost":
        await asyncio.sleep(0.02)  # a reader that takes its time
        reader.pause_after = len(reader.received) + 1
        far.resume_reading()
    assert reader.lost is None
    assert len(reader.received) == 40_000


async def test_a_reader_that_takes_nothing_is_cut() -> None:
    reader = Recorder()
    transport, far = memory_pair(Recorder(), reader)
    far.pause_reading()
    transport.write(bytes(1_000))
    close_gently(transport, timeout=0.01, stall_timeout=0.05)
    assert isinstance(await reader.until_lost(timeout=2), ConnectionResetError)
    assert reader.received == b""


async def test_a_transport_that_is_closing_already_is_reported_as_gone() -> None:
    transport, _ = memory_pair(Recorder(), Recorder())
    transport.abort()
    closed = asyncio.Event()
    close_gently(transport, on_closed=closed.set)
    assert not closed.is_set()
    async with asyncio.timeout(1):
        await closed.wait()


async def test_a_peer_that_reset_a_paused_connection_is_let_go() -> None:
    """The loop has not looked at the socket since, so it is the half-close that finds out."""
    a, b = Recorder(), Recorder()
    async with sockets(a, b) as joined:
        joined.a.pause_reading()
        below = joined.b.get_extra_info("socket")
        below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        joined.b.abort()
        await b.until_lost()
        closed = asyncio.Event()
        close_gently(joined.a, on_closed=closed.set)
        async with asyncio.timeout(2):
            await closed.wait()
