"""What the battery runs on: each way of making a connected pair of transports, by name.

A factory is an async context manager that takes the two protocols and gives a `Joined`. To put another transport through
the battery, write one more and add it to `STACKS`; `NOT_ASKED` says what cannot be asked of one, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.support import ca
from tests.support.pair import memory_pair
from tests.support.recording import Recorder

from penstock.net.link import Link, LinkStream
from penstock.net.tls import start_tls
from penstock.net.transports import cut
from penstock.net.websocket import open_websocket
from penstock.protocol.http2 import Role
from penstock.tls import certs, contexts


@dataclass
class Joined:
    """A connected pair: `a` and `b` are the transports, `sever` breaks the lowest wire between them."""

    a: Any
    b: Any
    sever: Callable[[], None]


Factory = Callable[[Recorder, Recorder], AbstractAsyncContextManager[Joined]]


@cache
def tls_contexts() -> tuple[contexts.TLSContext, contexts.TLSContext]:
    """A client's and a server's context that go together."""
    authority = ca.ca()
    anchors = [certs.certificate_to_pem(authority.certificate)]
    return contexts.caller_inner(anchors, None), contexts.proxy_inner(ca.server(authority))


@contextlib.asynccontextmanager
async def sockets(a: Recorder, b: Recorder) -> AsyncIterator[Joined]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: b, "127.0.0.1", 0)
    one, _ = await loop.create_connection(lambda: a, "127.0.0.1", server.sockets[0].getsockname()[1])
    await b.until(lambda: b.transport)
    server.close()

    def sever() -> None:
        cut(one)
        cut(b.transport)

    try:
        yield Joined(one, b.transport, sever)
    finally:
        sever()


@contextlib.asynccontextmanager
async def memory(a: Recorder, b: Recorder) -> AsyncIterator[Joined]:
    one, two = memory_pair(a, b)
    yield Joined(one, two, one.cut)
    one.abort()


@contextlib.asynccontextmanager
async def memory_in_crumbs(a: Recorder, b: Recorder) -> AsyncIterator[Joined]:
    one, two = memory_pair(a, b, split=1_009)
    yield Joined(one, two, one.cut)
    one.abort()


class _Parked(Recorder):
    """Holds the layer below until the next one takes it over."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()


def websocket_over(lower: Factory) -> Factory:
    @contextlib.asynccontextmanager
    async def stack(a: Recorder, b: Recorder) -> AsyncIterator[Joined]:
        async with lower(_Parked(), _Parked()) as below:
            one = open_websocket(below.a, a, client_side=True)
            two = open_websocket(below.b, b, client_side=False)
            yield Joined(one, two, below.sever)
            one.abort()
            two.abort()

    return stack


def tls_over(lower: Factory) -> Factory:
    @contextlib.asynccontextmanager
    async def stack(a: Recorder, b: Recorder) -> AsyncIterator[Joined]:
        client, server = tls_contexts()
        failures: list[Exception] = []
        async with lower(_Parked(), _Parked()) as below:
            two = start_tls(below.b, b, server, server_side=True, on_failed=failures.append)
            one = start_tls(below.a, a, client, server_side=False, server_hostname=ca.HOST, on_failed=failures.append)
            for end in (a, b):
                await end.until(lambda end=end: end.transport or failures)
            assert not failures
            yield Joined(one, two, below.sever)
            one.abort()
            two.abort()

    return stack


class _LinkOwner:
    """Takes the one stream that the other end opens."""

    def __init__(self) -> None:
        self.requested: asyncio.Future[LinkStream] = asyncio.get_running_loop().create_future()

    def link_made(self) -> None:
        pass

    def stream_requested(self, stream: LinkStream) -> None:
        self.requested.set_result(stream)

    def link_lost(self, exc: Exception | None) -> None:
        pass


def link_stream_over(lower: Factory) -> Factory:
    """A stream of a link: `a` at the edge's end, `b` at the agent's."""

    @contextlib.asynccontextmanager
    async def stack(a: Recorder, b: Recorder) -> AsyncIterator[Joined]:
        async with lower(_Parked(), _Parked()) as below:
            owner = _LinkOwner()
            edge, agent = Link(Role.EDGE, owner), Link(Role.AGENT, owner)
            for transport, link in ((below.a, edge), (below.b, agent)):
                transport.set_protocol(link)
                link.connection_made(transport)
                transport.resume_reading()
            one = edge.open_stream([(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")])
            two = await owner.requested
            two.respond([(b":status", b"200")])
            await one.response()
            for stream, end in ((one, a), (two, b)):
                stream.set_protocol(end)
                end.connection_made(stream)
                stream.resume_reading()
            yield Joined(one, two, below.sever)
            edge.abort()
            agent.abort()

    return stack


STACKS: dict[str, Factory] = {
    "socket": sockets,
    "memory": memory,
    "memory in crumbs": memory_in_crumbs,
    "websocket over memory": websocket_over(memory),
    "websocket over crumbs": websocket_over(memory_in_crumbs),
    "websocket over socket": websocket_over(sockets),
    "tls over memory": tls_over(memory),
    "tls over crumbs": tls_over(memory_in_crumbs),
    "tls over socket": tls_over(sockets),
    "link stream over memory": link_stream_over(memory),
    "link stream over crumbs": link_stream_over(memory_in_crumbs),
    "link stream over tls over socket": link_stream_over(tls_over(sockets)),
    "tls over websocket over tls over socket": tls_over(websocket_over(tls_over(sockets))),
    "tls over link stream over tls over memory": tls_over(link_stream_over(tls_over(memory))),
}

# What a bare socket is not asked, because it is asyncio's and the kernel's own; what stands on it is asked everything.
NOT_ASKED: dict[str, dict[str, str]] = {
    "socket": {
        "a_cut_does_not_wait_for_a_paused_reader": "a paused socket is not looked at; `net.watch` does it for the layer above",
        "an_abort_overtakes_what_was_written": "as above",
        "an_end_reaches_a_peer_that_is_still_sending": "close() of a socket resets; `net.closing` is the gentle way",
        "a_broken_wire_is_an_error_to_both": "nothing but the two ends can be severed",
        "a_lost_transport_takes_everything_quietly": "uvloop's raise RuntimeError once connection_lost has been called",
        "a_protocol_that_raises_ends_its_own_transport": "asyncio ends it with a FIN, and uvloop in its own words",
    }
}
