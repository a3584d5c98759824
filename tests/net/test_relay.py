from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import socket
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from tests.conformance.stacks import STACKS, sockets
from tests.support.pair import memory_pair
from tests.support.recording import Recorder, settle

from penstock.net.dial import dial_tcp
from penstock.net.meter import Bucket, Meter
from penstock.net.relay import RelayResult, join
from penstock.net.transports import Parked, cut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Line:
    """caller - (one wire) - relay - (another wire) - origin, in memory."""

    def __init__(
        self, *, to_caller: bytes = b"", to_origin: bytes = b"", meter: Meter | None = None, **timeouts: float
    ) -> None:
        self.caller, self.origin = Recorder(), Recorder()
        self.results: list[RelayResult] = []
        self.c, self.a = memory_pair(self.caller, Parked())
        self.b, self.o = memory_pair(Parked(), self.origin)
        join(self.a, self.b, to_a=to_caller, to_b=to_origin, on_done=self.results.append, meter=meter, **timeouts)

    async def done(self) -> RelayResult:
        async with asyncio.timeout(5):
            while not self.results:
                await asyncio.sleep(0.001)
        await settle()
        assert len(self.results) == 1
        return self.results[0]


async def test_bytes_pass_both_ways_beginning_with_what_was_read_before() -> None:
    line = Line(to_caller=b"early answer ", to_origin=b"early question ")
    line.c.write(b"question")
    line.o.write(b"answer")
    await line.origin.until_received(23)
    await line.caller.until_received(19)
    assert line.origin.received == b"early question question"
    assert line.caller.received == b"early answer answer"
    line.c.close()
    result = await line.done()
    assert (result.a_to_b, result.b_to_a, result.error) == (23, 19, None)


async def test_one_side_ending_delivers_all_it_sent_and_then_ends_the_other() -> None:
    line = Line()
    line.origin.pause_after = 1
    for _ in range(300):
        line.c.write(bytes(1000))
    line.c.close()
    await line.origin.until_received(1)
    await settle()
    assert "eof_received" not in line.origin.calls
    line.o.resume_reading()
    assert await line.origin.until_lost() is None
    assert len(line.origin.received) == 300_000
    assert (await line.done()).error is None


async def test_both_sides_ending_at_once_is_a_clean_end() -> None:
    line = Line()
    line.c.write(b"one")
    line.o.write(b"two")
    line.c.close()
    line.o.close()
    assert (await line.done()).error is None


@pytest.mark.parametrize("stalled", ["upload", "download"])
async def test_a_cancellation_overtakes_what_is_queued(stalled: str) -> None:
    line = Line()
    leaving, staying = (line.c, line.o) if stalled == "upload" else (line.o, line.c)
    leaver, stayer = (line.caller, line.origin) if stalled == "upload" else (line.origin, line.caller)
    staying.pause_reading()
    while not leaver.is_full:
        leaving.write(bytes(10_000))
        await settle()
    cut(leaving)
    assert await stayer.until_lost(timeout=1) is not None
    assert stayer.received == b""
    assert (await line.done()).error is not None


async def test_a_metered_relay_moves_no_more_than_its_rate_and_loses_nothing() -> None:
    rate = 400_000
    line = Line(to_origin=bytes(1000), meter=Meter([Bucket(rate)]))
    began = asyncio.get_running_loop().time()
    line.c.write(bytes(2 * rate))  # a second's worth is free, the next takes its time
    line.c.close()
    result = await line.done()
    taken = asyncio.get_running_loop().time() - began
    assert (len(line.origin.received), result.a_to_b) == (2 * rate + 1000, 2 * rate + 1000)
    assert taken >= 1 - 65_536 / rate  # the last piece is not waited for
    assert result.error is None


async def test_a_metered_side_that_waits_is_still_cut_at_once() -> None:
    line = Line(meter=Meter([Bucket(65_536)]))
    line.c.write(bytes(655_360))
    await line.origin.until_received(65_537)
    cut(line.o)
    assert await line.caller.until_lost(timeout=1) is not None
    assert (await line.done()).error is not None


async def test_a_reader_that_leaves_stops_the_writer() -> None:
    line = Line()
    line.o.pause_reading()
    while not line.caller.is_full:
        line.c.write(bytes(10_000))
        await settle()
    cut(line.o)
    assert await line.caller.until_lost(timeout=1) is not None


async def test_a_slow_reader_slows_the_writer_and_nothing_piles_up() -> None:
    line = Line()
    line.o.pause_reading()
    while not line.caller.is_full:
        line.c.write(bytes(10_000))
        await settle()
    assert line.b.get_write_buffer_size() <= 2 * line.b.get_write_buffer_limits()[1]
    line.o.resume_reading()
    await line.caller.until_writable()


async def test_a_reader_that_takes_nothing_holds_an_ended_relay_no_longer_than_the_limit() -> None:
    line = Line(end_timeout=0.02, stall_timeout=0.05)
    line.o.pause_reading()
    line.c.write(bytes(50_000))
    line.c.close()
    await line.done()
    assert await line.origin.until_lost() is not None


@pytest.mark.parametrize("side", ["a", "b"])
async def test_a_side_that_left_before_it_was_joined_ends_the_other(side: str) -> None:
    caller, origin = Recorder(), Recorder()
    c, a = memory_pair(caller, Parked())
    b, o = memory_pair(Parked(), origin)
    (c if side == "a" else o).abort()
    await settle()
    results: list[RelayResult] = []
    join(a, b, to_b=b"early", on_done=results.append)
    other = origin if side == "a" else caller
    assert await other.until_lost() is not None
    await settle()
    assert isinstance(results[0].error, ConnectionError)


@contextlib.asynccontextmanager
async def narrow() -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """A connection whose system holds little: the dialled end, and the other as it is."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        transport = await dial_tcp(*listening.getsockname())
        other, _ = listening.accept()
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    other.setblocking(False)
    with other:
        yield transport, other
        transport.abort()


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")
@pytest.mark.parametrize("reads", [True, False])
async def test_an_end_waits_for_a_reader_as_long_as_it_takes_anything_and_no_longer(reads: bool) -> None:
    loop = asyncio.get_running_loop()
    results: list[RelayResult] = []
    size = 250_000
    async with asyncio.timeout(20), narrow() as (a, source), narrow() as (b, sink):
        a.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * size)
        join(a, b, on_done=results.append, fin_patience=0.6)
        await loop.sock_sendall(source, bytes(size))
        source.shutdown(socket.SHUT_WR)
        received = 0
        while reads and (data := await loop.sock_recv(sink, 4_000)):
            received += len(data)
            await asyncio.sleep(0.03)  # 2 s in all: far more than the patience
        while not results:
            await asyncio.sleep(0.01)
    if reads:
        assert received == size
        assert results[0].error is None
    else:
        assert isinstance(results[0].error, ConnectionAbortedError)


async def test_aborting_one_transport_from_outside_stops_the_relay() -> None:
    line = Line()
    line.a.abort()
    assert await line.origin.until_lost() is not None
    assert (await line.done()).error is not None


async def test_a_finished_relay_forms_no_cycle() -> None:
    line = Line()
    line.c.close()
    await line.done()
    await settle()
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(line.a), weakref.ref(line.b)
        for end in (line.a, line.b, line.c, line.o):
            del end.peer  # the double's own cycle
        del line, end
        await settle()
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


# --- on real wires ----------------------------------------------------------------------------------------------------


async def _through(stack: str, far: Callable[..., Any], near_recorder: Recorder, far_recorder: Recorder, use: Any) -> None:
    async with STACKS[stack](near_recorder, Recorder()) as near, far(Recorder(), far_recorder) as beyond:
        done: asyncio.Future[RelayResult] = asyncio.get_running_loop().create_future()
        join(near.b, beyond.a, on_done=done.set_result)
        await use(near.a, beyond.b, done)


@pytest.mark.parametrize("stack", ["socket", "tls over socket", "websocket over socket"])
async def test_a_cancelled_upload_that_is_stalled_reaches_the_origin_as_a_reset(stack: str) -> None:
    caller, origin = Recorder(), Recorder()

    async def use(near: Any, beyond: Any, done: asyncio.Future[RelayResult]) -> None:
        beyond.pause_reading()
        while not caller.is_full:
            near.write(bytes(65_536))
            await settle(3)
        await settle(100)
        cut(near)
        async with asyncio.timeout(3):
            assert (await done).error is not None
        beyond.resume_reading()
        assert isinstance(await origin.until_lost(), ConnectionResetError)

    await _through(stack, sockets, caller, origin, use)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB there")
@pytest.mark.parametrize("stack", ["socket", "tls over websocket over tls over socket"])
async def test_200_megabytes_pass_a_slow_reader_in_bounded_memory(stack: str) -> None:
    total, piece = 200 << 20, bytes(1 << 16)
    caller, origin = Recorder(), Recorder()
    taken = 0

    def take(data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        origin.received.clear()
        if taken // (8 << 20) != (taken - len(data)) // (8 << 20):  # every 8 MB it stops for a moment
            origin.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.01, origin.transport.resume_reading)

    origin.on_data = take

    async def use(near: Any, beyond: Any, done: asyncio.Future[RelayResult]) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(total // len(piece)):
            near.write(piece)
            await caller.until_writable()
        near.close()
        async with asyncio.timeout(50):
            result = await done
        assert (taken, result.a_to_b, result.error) == (total, total, None)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10

    await _through(stack, sockets, caller, origin, use)
