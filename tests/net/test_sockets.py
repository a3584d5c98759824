from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter

import pytest
from tests.conformance.stacks import Factory, sockets, tls_over, websocket_over
from tests.net.test_link import joined, until
from tests.support.recording import Recorder

from penstock.net import relay
from penstock.net.dial import dial_tcp
from penstock.net.listen import listen_tcp
from penstock.net.sockets import READ_MOST, UNSENT_MOST, peer_of
from penstock.net.upgrade import UpgradeListener, UpgradeRequest, request_upgrade
from penstock.protocol.http2 import Settings

pytestmark = pytest.mark.anyio

BULK = 4_000_000
NOTSENT_LOWAT = 25
"""linux/tcp.h."""
RECORD = 16_384
"""What a TLS session has in hand of a record begins in one read and ends in the next."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Turns:
    """Counts what is delivered in each turn of the loop."""

    def __init__(self) -> None:
        self.delivered: Counter[int] = Counter()
        self._turn = 0
        self._next()

    def note(self, data: bytes) -> None:
        self.delivered[self._turn] += len(data)

    def _next(self) -> None:
        self._turn += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


@pytest.mark.parametrize("stack", [tls_over(sockets), websocket_over(sockets)], ids=["tls", "websocket"])
async def test_no_download_takes_more_than_one_read_of_a_turn_of_the_loop(stack: Factory) -> None:
    turns = Turns()
    far, near = Recorder(), Recorder(on_data=turns.note)
    async with stack(far, near) as joined:
        joined.b.pause_reading()
        joined.a.write(bytes(BULK))
        joined.b.resume_reading()
        await near.until_received(BULK)
    turns.stop()
    assert 0 < max(turns.delivered.values()) <= READ_MOST + RECORD


async def test_a_relay_takes_no_more_than_one_read_of_a_turn_of_the_loop() -> None:
    turns = Turns()
    far, last = Recorder(), Recorder()
    async with sockets(far, Recorder()) as upper, sockets(Recorder(), last) as lower:
        upper.b.pause_reading()
        upper.a.write(bytes(BULK))
        relay.join(upper.b, lower.a, meter=turns_of(turns))  # pyright: ignore[reportArgumentType]  # it counts and holds nobody up
        await last.until_received(BULK)
    turns.stop()
    assert 0 < max(turns.delivered.values()) <= READ_MOST


async def test_what_waited_for_a_reader_that_paused_takes_no_more_of_a_turn_than_a_read_does() -> None:
    wide = Settings(initial_window=1 << 20, max_window=1 << 20)
    async with joined(settings=wide) as ends:
        await until(lambda: ends.edge._http.peer_connection_window > 1 << 20)
        near, far = await ends.stream()
        near.write(bytes(1 << 20))
        await until(lambda: ends.edge.buffered == 0)
        turns = Turns()
        reader = Recorder(on_data=turns.note)
        far.set_protocol(reader)
        reader.connection_made(far)
        far.resume_reading()
        await reader.until_received(1 << 20)
        turns.stop()
    assert 0 < max(turns.delivered.values()) <= READ_MOST + RECORD


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel lets its queue be bounded")
async def test_the_kernel_is_told_to_hold_little_of_what_is_dialled_and_of_what_is_upgraded() -> None:
    requested: asyncio.Queue[UpgradeRequest] = asyncio.Queue()
    listener = await listen_tcp("127.0.0.1", 0, lambda: UpgradeListener(requested.put_nowait))
    dialled = await dial_tcp("127.0.0.1", listener.port)
    asking = asyncio.gather(request_upgrade(dialled, host="echo.test"))
    accepted = await requested.get()
    accepted.accept()
    await asking
    for transport in (dialled, accepted.transport):
        below = transport.get_extra_info("socket")
        assert below.getsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT) == UNSENT_MOST
        transport.abort()
    listener.close()


def turns_of(turns: Turns) -> object:
    class Counting:
        def moved(self, amount: int, side: object) -> None:
            turns.note(bytes(amount))

    return Counting()


@pytest.mark.anyio
async def test_a_connection_that_is_gone_has_nobody_at_its_other_end_and_can_be_asked() -> None:
    gone = asyncio.get_running_loop().create_future()

    class Ends(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            gone.set_result(exc)

    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, _ = await asyncio.get_running_loop().create_connection(Ends, *address)
    assert peer_of(transport) == address
    transport.abort()
    await gone
    await asyncio.sleep(0)
    assert peer_of(transport) in (None, address)  # asyncio remembers, uvloop asks the socket, and raised
    server.close()
