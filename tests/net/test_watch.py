from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from tests.conformance.stacks import sockets
from tests.support.pair import memory_pair
from tests.support.recording import Recorder

from penstock.net.transports import cut
from penstock.net.watch import PauseWatch

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's"),
]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Watched:
    def __init__(self, transport: Any, **times: Any) -> None:
        self.gone: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        transport.pause_reading()
        self.watch = PauseWatch(transport, self.gone.set_result, interval=0.01, **times)
        self.watch.arm()
        self.watch.arm()


async def test_a_reset_behind_unread_bytes_is_noticed() -> None:
    async with sockets(Recorder(), Recorder()) as joined:
        watched = Watched(joined.b)
        joined.a.write(bytes(10_000))
        cut(joined.a)
        async with asyncio.timeout(2):
            assert isinstance(await watched.gone, ConnectionResetError)


async def test_an_end_behind_unread_bytes_waits_for_the_reader_but_not_for_ever() -> None:
    async with sockets(Recorder(), Recorder()) as joined:
        watched = Watched(joined.b, fin_patience=0.1)
        joined.a.write(bytes(10_000))
        joined.a.close()
        await asyncio.sleep(0.05)
        assert not watched.gone.done()
        async with asyncio.timeout(2):
            assert isinstance(await watched.gone, ConnectionAbortedError)


async def test_an_end_waits_for_a_reader_that_takes_something_whether_or_not_a_look_finds_it_reading() -> None:
    async with sockets(Recorder(), Recorder()) as joined:
        waiting = 1000
        watched = Watched(joined.b, fin_patience=0.2, progress=lambda: waiting)
        joined.a.write(bytes(10_000))
        joined.a.close()
        for _ in range(20):  # 0.6 s
            await asyncio.sleep(0.03)
            waiting -= 1
        assert not watched.gone.done()
        for _ in range(20):
            await asyncio.sleep(0.03)
            watched.watch.arm()  # it was resumed and paused between two looks
        assert not watched.gone.done()
        async with asyncio.timeout(2):
            assert isinstance(await watched.gone, ConnectionAbortedError)


async def test_a_connection_that_lives_or_reads_again_is_left_alone() -> None:
    reader = Recorder()
    async with sockets(Recorder(), reader) as joined:
        watched = Watched(joined.b, fin_patience=0.02)
        joined.a.write(bytes(10_000))
        await asyncio.sleep(0.05)
        joined.b.resume_reading()
        await asyncio.sleep(0.03)
        joined.a.close()
        await reader.until_lost()
        assert not watched.gone.done()


async def test_what_is_no_socket_is_left_alone() -> None:
    _, transport = memory_pair(Recorder(), Recorder())
    watched = Watched(transport)
    await asyncio.sleep(0.03)
    assert not watched.gone.done()
