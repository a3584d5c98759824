"""A balancer's PROXY protocol header before TLS, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from tests.conformance.stacks import tls_contexts
from tests.protocol.test_proxy_protocol import header, tcp
from tests.support import ca
from tests.support.recording import Recorder

from penstock.net.arrivals import Arrivals
from penstock.net.dial import dial_tcp, handshake
from penstock.net.listen import Listener, listen_tls
from penstock.net.streams import ByteStream

pytestmark = pytest.mark.anyio

LOOPBACK = "127.0.0.1"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Server:
    """A TLS listener that trusts this machine's balancers, or none; what it accepted and what failed."""

    def __init__(self) -> None:
        self.client, self._context = tls_contexts()
        self.accepted: asyncio.Queue[Recorder] = asyncio.Queue()
        self.failed: asyncio.Queue[Exception] = asyncio.Queue()
        self.listener: Listener

    def _accept(self) -> Recorder:
        recorder = Recorder()
        self.accepted.put_nowait(recorder)
        return recorder

    async def start(self, *, trusted: bool = True, timeout: float = 5.0, arrivals: Arrivals | None = None) -> Server:
        self.listener = await listen_tls(
            LOOPBACK,
            0,
            self._accept,
            context=self._context,
            handshake_timeout=timeout,
            on_failed=lambda exc, _: self.failed.put_nowait(exc),
            is_announced=lambda host: trusted and host == LOOPBACK,
            arrivals=arrivals,
        )
        return self

    async def dial(self) -> asyncio.Transport:
        return await dial_tcp(LOOPBACK, self.listener.port)

    async def peer(self) -> Any:
        async with asyncio.timeout(5):
            recorder = await self.accepted.get()
        assert recorder.transport is not None
        return recorder.transport.get_extra_info("peername")


async def ended(transport: asyncio.Transport) -> None:
    pipe = ByteStream.over(transport)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await pipe.read(1) == b""
    await pipe.aclose()


@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
async def test_the_peer_is_whom_the_balancer_names(source: str) -> None:
    server = await Server().start()
    transport = await server.dial()
    transport.write(tcp(source, 40_000))
    tls = await handshake(transport, context=server.client, server_hostname=ca.HOST)
    assert await server.peer() == (source, 40_000)
    tls.abort()
    server.listener.close()


async def test_a_header_in_pieces_and_a_hello_in_the_same_packet_are_the_same() -> None:
    server = await Server().start()
    transport = await server.dial()
    said = tcp("192.0.2.7", 40_000)
    below: socket.socket = transport.get_extra_info("socket")
    below.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in said[:-1]:
        transport.write(bytes([byte]))
        await asyncio.sleep(0)
    transport.write(said[-1:])  # with the hello behind it
    tls = await handshake(transport, context=server.client, server_hostname=ca.HOST)
    assert (await server.peer())[0] == "192.0.2.7"
    tls.abort()
    server.listener.close()


async def test_a_balancer_that_speaks_for_itself_is_the_peer() -> None:
    server = await Server().start()
    transport = await server.dial()
    transport.write(header(command=0x20))
    tls = await handshake(transport, context=server.client, server_hostname=ca.HOST)
    assert (await server.peer())[0] == LOOPBACK
    tls.abort()
    server.listener.close()


@pytest.mark.parametrize("said", [b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"])
async def test_what_is_no_header_from_a_balancer_ends_that_connection_alone(said: bytes) -> None:
    server = await Server().start()
    good, bad = await server.dial(), await server.dial()
    bad.write(said)
    await ended(bad)
    assert "PROXY protocol" in str(await server.failed.get())
    good.write(tcp("192.0.2.7", 1))
    (await handshake(good, context=server.client, server_hostname=ca.HOST)).abort()
    server.listener.close()


async def test_nobody_else_may_say_who_they_are() -> None:
    server = await Server().start(trusted=False)
    liar = await server.dial()
    liar.write(tcp("192.0.2.7", 40_000))
    await ended(liar)
    assert await server.failed.get()
    tls = await handshake(await server.dial(), context=server.client, server_hostname=ca.HOST)
    assert (await server.peer())[0] == LOOPBACK
    tls.abort()
    server.listener.close()


async def test_a_header_that_does_not_come_or_stops_half_way_is_not_waited_for() -> None:
    server = await Server().start(timeout=0.1)
    silent, half, leaving = await server.dial(), await server.dial(), await server.dial()
    half.write(tcp("192.0.2.7", 1)[:20])
    leaving.write(b"\r\n")
    leaving.close()
    await ended(silent)
    await ended(half)
    kinds = [type(await server.failed.get()) for _ in range(3)]
    assert sorted(kind.__name__ for kind in kinds) == ["ConnectionResetError", "TimeoutError", "TimeoutError"]
    server.listener.close()


async def test_those_who_dawdle_before_or_in_tls_give_way_and_honest_ones_get_in() -> None:
    displaced: list[None] = []
    arrivals = Arrivals(2, lambda: displaced.append(None))
    server = await Server().start(timeout=60.0, arrivals=arrivals)
    silent, half = await server.dial(), await server.dial()
    half.write(tcp("192.0.2.7", 1) + b"\x16\x03\x01\x02\x00")  # the beginning of a hello
    async with asyncio.timeout(5):
        while len(arrivals) < 2:
            await asyncio.sleep(0.001)
    sessions: list[asyncio.Transport] = []
    for port in range(4):
        honest = await server.dial()
        honest.write(tcp("192.0.2.8", port))
        sessions.append(await handshake(honest, context=server.client, server_hostname=ca.HOST))
        assert await server.peer() == ("192.0.2.8", port)
    await ended(silent)
    assert len(displaced) == 1  # the second was never needed: who is through makes room
    for transport in (*sessions, half):
        transport.abort()
    server.listener.close()
