from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from penstock.agent.config import AgentLimits
from penstock.agent.metrics import AgentMetrics
from penstock.agent.origin import Origin
from penstock.net.link import Link, LinkStream
from penstock.net.streams import ByteStream
from penstock.net.tasks import Tasks
from penstock.protocol import metadata
from penstock.protocol.http2 import Role
from penstock.telemetry.log import get_logger
from penstock.telemetry.metrics import new_registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from penstock.net.link.stream import Headers

pytestmark = pytest.mark.anyio

REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"echo.test"), (b":path", b"/")]
WEBSOCKET = (metadata.UPGRADE, metadata.WEBSOCKET)


class _Owner:
    def __init__(self, origin: Origin | None) -> None:
        self._origin = origin
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def link_made(self) -> None:
        pass

    def stream_requested(self, stream: LinkStream) -> None:
        assert self._origin is not None
        self._origin.serve(stream)

    def link_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def edge_of(url: str) -> AsyncIterator[Link]:
    """The edge's end of a link whose streams an origin at `url` serves."""
    tasks = Tasks()
    origin = Origin(url, limits=AgentLimits(), metrics=AgentMetrics.on(new_registry()), tasks=tasks, log=get_logger("agent"))
    owners = _Owner(None), _Owner(origin)
    edge, agent = Link(Role.EDGE, owners[0]), Link(Role.AGENT, owners[1])
    one, other = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: edge, sock=one)
    await loop.create_connection(lambda: agent, sock=other)
    try:
        async with asyncio.timeout(10):
            yield edge
    finally:
        edge.abort()
        agent.abort()
        await asyncio.wait([owner.lost for owner in owners], timeout=5)
        await tasks.aclose()


async def answer(edge: Link, *marks: tuple[bytes, bytes]) -> tuple[int, dict[bytes, bytes], bytes]:
    stream = edge.open_stream([*REQUEST, *marks])
    head: Headers = await stream.response()
    pipe = ByteStream.over(stream)
    body = b""
    while data := await pipe.read(65_536):
        body += data
    packed = metadata.parse_headers(dict(head)[metadata.RESPONSE_HEADERS])
    return int(dict(head)[b":status"]), dict(packed), body


@pytest.mark.parametrize(
    "marks",
    [
        [],
        [(metadata.UPGRADE, metadata.UPDATE_CONFIGURATION)],
        [(metadata.TCP_SOURCE, b"x")],
        [WEBSOCKET, (metadata.TCP_SOURCE, b"x")],
    ],
    ids=["plain request", "remote configuration", "raw TCP", "raw TCP in disguise"],
)
async def test_anything_but_a_websocket_is_refused_and_dials_nowhere(marks: list[tuple[bytes, bytes]]) -> None:
    async with edge_of("http://127.0.0.1:9") as edge:
        status, fields, _ = await answer(edge, *marks)
        assert (status, fields[b"Penstock-Error"]) == (501, b"bad_request")


@pytest.mark.parametrize(
    "head",
    [
        [(b":authority", b"\xe4.test"), (b":path", b"/")],
        [(b":authority", b"echo.test"), (b":path", b"/\xe4")],
        [(b":authority", b"echo.test"), (b":path", b"/a b")],
    ],
    ids=["authority", "path", "path with a space"],
)
async def test_a_head_that_http_cannot_carry_is_answered_and_no_error_of_ours(head: Headers) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server, edge_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as edge:
        stream = edge.open_stream([(b":method", b"GET"), (b":scheme", b"https"), *head, WEBSOCKET])
        answered = dict(await stream.response())
        packed = dict(metadata.parse_headers(answered[metadata.RESPONSE_HEADERS]))
        assert (answered[b":status"], packed[b"Penstock-Error"]) == (b"400", b"bad_request")
        stream.abort()


async def test_no_target_is_answered_as_published_and_in_the_targets_name() -> None:
    async with edge_of("") as edge:
        stream = edge.open_stream([*REQUEST, WEBSOCKET])
        head = dict(await stream.response())
        assert (head[b":status"], head[metadata.RESPONSE_META]) == (b"503", metadata.META_ORIGIN)
        assert (await ByteStream.over(stream).read(100)).startswith(b"No ingress rules were defined")


async def test_a_target_that_is_down_is_answered_in_the_agents_name() -> None:
    async with edge_of("http://127.0.0.1:9") as edge:
        stream = edge.open_stream([*REQUEST, WEBSOCKET])
        head = dict(await stream.response())
        assert (head[b":status"], head[metadata.RESPONSE_META]) == (b"502", metadata.META_AGENT)
        stream.abort()


async def test_an_edge_that_gives_up_before_the_answer_ends_the_connection_to_the_target() -> None:
    loop = asyncio.get_running_loop()
    asked, ended = loop.create_future(), loop.create_future()

    class Silent(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            if not asked.done():
                asked.set_result(data)

        def connection_lost(self, exc: Exception | None) -> None:
            ended.set_result(exc)

    server = await loop.create_server(Silent, "127.0.0.1", 0)
    async with server, edge_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as edge:
        stream = edge.open_stream([*REQUEST, WEBSOCKET])
        assert b"Host: echo.test\r\n" in await asked
        stream.abort()
        assert isinstance(await ended, ConnectionError)
