"""How much of one stream goes before another's few bytes, counted in bytes: clocks tell little on a busy machine."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from tests.net.test_link import OK, REQUEST, Owner, own

from penstock.net.link import Link
from penstock.net.sockets import UNSENT_MOST
from penstock.protocol.http2 import Connection, HeadersReceived, Role, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

SMALL = b"a small request"
BULK = 30_000_000
NETWORK = 131_072
"""What the far end's kernel is told to hold; it takes twice that."""
WIDE = Settings(initial_window=2**30, max_window=2**30, connection_window=2**31 - 1)
"""An agent that takes everything at once: what holds the bulk up is the network alone."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Agent:
    """An agent behind a network that takes nothing unless it is read."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.http = Connection(Role.AGENT, WIDE)
        self.received = bytearray()
        self.http.start()

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self.http.has_data_to_send:
            await loop.sock_sendall(self.sock, self.http.data_to_send())
        data = await loop.sock_recv(self.sock, 65_536)
        self.received += data
        for event in self.http.receive_data(data):
            if isinstance(event, HeadersReceived):
                self.http.send_headers(event.stream_id, OK)
        if self.http.has_data_to_send:
            await loop.sock_sendall(self.sock, self.http.data_to_send())

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await self.turn()


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel lets its queue be bounded")
async def test_a_bulk_stream_behind_a_slow_network_leaves_little_ahead_of_another_streams_bytes() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NETWORK)  # inherited: the network in between is small
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        listening.setblocking(False)
        owner = Owner()
        edge = Link(Role.EDGE, owner)
        dialling = asyncio.gather(loop.create_connection(lambda: edge, *listening.getsockname()))
        accepted, _ = await loop.sock_accept(listening)
        await dialling
    agent = Agent(accepted)
    with accepted:
        await agent.until(lambda: edge._http.peer_connection_window > BULK)
        bulk, other = edge.open_stream(REQUEST), edge.open_stream(REQUEST)
        answering = asyncio.gather(agent.turn())
        await asyncio.gather(bulk.response(), other.response(), answering)
        own(bulk)
        own(other)
        bulk.write(bytes(BULK))
        left = -1
        while left != (left := edge.buffered):  # nothing moves any more
            await asyncio.sleep(0.05)
        assert left > BULK // 2
        before = len(agent.received)
        other.write(SMALL)
        await agent.until(lambda: SMALL in agent.received[before:])
        ahead = agent.received.index(SMALL, before) - before
        # What the far kernel and ours hold, and what is below the link: 4 MB where nobody bounds ours.
        assert ahead <= 2 * NETWORK + UNSENT_MOST + 4 * 65_536, ahead
        edge.abort()
        await asyncio.wait_for(owner.lost, 5)
