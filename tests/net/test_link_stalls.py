from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamReset
from h2.settings import SettingCodes

from penstock.net.link import Link, LinkLimits, LinkStream
from penstock.net.link.stalls import Stalls
from penstock.protocol.http2 import Holder, Role

WINDOW = 1000
MIB = 1024 * 1024
REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"echo.test"), (b":path", b"/")]


def test_streams_that_stand_still_give_way_until_the_others_have_half_of_the_window() -> None:
    stalls = Stalls(5.0)
    holders = [Holder(n, 100, 0) for n in (1, 3, 5, 7, 9, 11)]
    assert stalls.in_the_way(0.0, holders, WINDOW) == []
    assert stalls.in_the_way(4.9, holders, WINDOW) == []
    assert stalls.in_the_way(5.0, holders, WINDOW) == [1, 3]  # 400 of 1000 stay held


def test_a_stream_that_was_credited_is_slow_and_not_stalled() -> None:
    stalls = Stalls(5.0)
    for second in range(60):
        assert stalls.in_the_way(float(second), [Holder(n, 100, second // 4) for n in range(10)], WINDOW) == []


def test_the_longest_stalled_goes_first_and_few_that_stall_harm_nobody() -> None:
    stalls = Stalls(5.0)
    assert stalls.in_the_way(0.0, [Holder(3, 300, 0)], WINDOW) == []
    assert stalls.in_the_way(2.0, [Holder(1, 300, 0), Holder(3, 300, 0)], WINDOW) == []
    assert stalls.in_the_way(6.0, [Holder(1, 300, 0), Holder(3, 300, 0)], WINDOW) == []  # one alone is below half
    assert stalls.in_the_way(7.0, [Holder(1, 300, 0), Holder(3, 300, 0)], WINDOW) == [3]


def test_a_window_that_was_free_meanwhile_starts_the_time_anew() -> None:
    stalls = Stalls(5.0)
    stalls.in_the_way(0.0, [Holder(1, 900, 0)], WINDOW)
    stalls.clear()
    assert stalls.in_the_way(6.0, [Holder(1, 900, 0)], WINDOW) == []
    assert stalls.in_the_way(11.0, [Holder(1, 900, 0)], WINDOW) == [1]


# --- on a link --------------------------------------------------------------------------------------------------------


class StockPeer(asyncio.Protocol):
    """A stock agent's flow control: 1 MiB a stream, 1 MiB for all, and credit for both only when a stream's reader reads."""

    def __init__(self, readers: set[int]) -> None:
        self._readers = readers
        self._unread: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self._h2 = H2Connection(H2Configuration(client_side=False))
        self._h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = MIB
        self.gone = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set_result(None)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(MIB - 65_535)
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            match event:
                case RequestReceived(stream_id=stream_id):
                    self._h2.send_headers(stream_id, [(b":status", b"200")])
                case DataReceived(stream_id=stream_id, flow_controlled_length=size):
                    self.received[stream_id] = self.received.get(stream_id, 0) + size
                    if stream_id in self._readers:
                        self._h2.increment_flow_control_window(size)
                        self._h2.increment_flow_control_window(size, stream_id)
                    else:
                        self._unread[stream_id] = self._unread.get(stream_id, 0) + size
                case StreamReset(stream_id=stream_id):
                    if unread := self._unread.pop(stream_id, 0):
                        self._h2.increment_flow_control_window(unread)
                case _:
                    pass
        self._transport.write(self._h2.data_to_send())


class Owner:
    def link_made(self) -> None:
        pass

    def stream_requested(self, stream: LinkStream) -> None:
        pass

    def link_lost(self, exc: Exception | None) -> None:
        pass


class Writer(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@pytest.mark.anyio
@pytest.mark.parametrize("count", [1, 4, 20])
async def test_uploads_that_stall_at_a_stock_agent_do_not_freeze_the_link(count: int) -> None:
    link = Link(Role.EDGE, Owner(), limits=LinkLimits(stall_timeout=0.2, ping_interval=0.05))
    one, other = socket.socketpair()
    loop = asyncio.get_running_loop()
    readers = {2 * count + 1}
    _, peer = await loop.create_connection(lambda: StockPeer(readers), sock=other)
    await loop.create_connection(lambda: link, sock=one)
    async with asyncio.timeout(10):
        writers = [await _upload(link, 200_000) for _ in range(count)]
        await _upload(link, 300_000)
        while peer.received.get(2 * count + 1) != 300_000:
            await asyncio.sleep(0.005)
        lost = [writer.lost.result() for writer in writers if writer.lost.done()]
        assert all(isinstance(exc, TimeoutError) for exc in lost)
        assert bool(lost) == (count == 20)  # few that stall are in nobody's way
        if lost:
            assert writers[0].lost.done()  # the longest-stalled
        link.abort()
        await link.gone()
        peer._transport.abort()
        await peer.gone


async def _upload(link: Link, size: int) -> Writer:
    stream = link.open_stream(REQUEST)
    await stream.response()
    writer = Writer()
    stream.set_protocol(writer)
    stream.resume_reading()
    stream.write(bytes(size))
    return writer
