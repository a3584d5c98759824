"""What the battery runs on: each way of making a connected pair of transports, by name.

A factory is an async context manager that takes the two protocols and gives a `Joined`. To put another transport through
the battery, write one more and add it to `STACKS`; `traits` says what cannot be asked of it, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from penstock.net.tls import start_tls
from penstock.net.transports import Parked, cut
from penstock.net.websocket import open_websocket
from penstock.tls import certs, contexts
from tests.support import ca
from tests.support.pair import memory_pair
from tests.support.recording import Recorder

if TYPE_CHECKING:
    import ssl


@dataclass
class Joined:
    """A connected pair: `a` and `b` are the transports, `sever` breaks the lowest wire between them."""

    a: Any
    b: Any
    sever: Callable[[], None]


Factory = Callable[[Recorder, Recorder], AbstractAsyncContextManager[Joined]]


@cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's context that go together."""
    authority = ca.ca()
    anchors = [certs.certificate_to_pem(authority.certificate)]
    return contexts.caller_inner(anchors, None), contexts.proxy_inner(ca.server(authority))


@contextlib.asynccontextmanager
async def sockets(a: asyncio.Protocol, b: asyncio.Protocol) -> AsyncIterator[Joined]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[asyncio.Transport] = loop.create_future()

    def factory() -> asyncio.Protocol:
        loop.call_soon(lambda: accepted.set_result(getattr(b, "transport", None) or b_transport()))
        return b

    def b_transport() -> Any:
        raise AssertionError("the accepted protocol keeps its transport")

    server = await loop.create_server(factory, "127.0.0.1", 0)
    one, _ = await loop.create_connection(lambda: a, "127.0.0.1", server.sockets[0].getsockname()[1])
    async with asyncio.timeout(5):
        two = await accepted
    server.close()
    try:
        yield Joined(one, two, lambda: (cut(one), cut(two)) and None)
    finally:
        one.abort()
        two.abort()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def memory(a: asyncio.Protocol, b: asyncio.Protocol) -> AsyncIterator[Joined]:
    one, two = memory_pair(a, b)
    yield Joined(one, two, one.cut)
    one.abort()


@contextlib.asynccontextmanager
async def memory_in_crumbs(a: asyncio.Protocol, b: asyncio.Protocol) -> AsyncIterator[Joined]:
    one, two = memory_pair(a, b, split=1_009)
    yield Joined(one, two, one.cut)
    one.abort()


class _Keeping(Parked):
    """Parked, and its transport can be asked for."""

    transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        super().connection_made(transport)


def websocket_over(lower: Callable[..., AbstractAsyncContextManager[Joined]]) -> Any:
    @contextlib.asynccontextmanager
    async def stack(a: asyncio.Protocol, b: asyncio.Protocol) -> AsyncIterator[Joined]:
        async with lower(_Keeping(), _Keeping()) as below:
            one = open_websocket(below.a, a, client_side=True)
            two = open_websocket(below.b, b, client_side=False)
            yield Joined(one, two, below.sever)
            one.abort()
            two.abort()

    return stack


def tls_over(lower: Callable[..., AbstractAsyncContextManager[Joined]]) -> Any:
    @contextlib.asynccontextmanager
    async def stack(a: asyncio.Protocol, b: asyncio.Protocol) -> AsyncIterator[Joined]:
        client, server = tls_contexts()
        failures: list[Exception] = []
        async with lower(_Keeping(), _Keeping()) as below:
            two = start_tls(below.b, b, server, server_side=True, on_failed=failures.append)
            one = start_tls(below.a, a, client, server_side=False, server_hostname=ca.HOST, on_failed=failures.append)
            async with asyncio.timeout(5):
                while not (one.is_open and two.is_open):
                    assert not failures
                    await asyncio.sleep(0.001)
            yield Joined(one, two, below.sever)
            one.abort()
            two.abort()

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
    "tls over websocket over tls over socket": tls_over(websocket_over(tls_over(sockets))),
}

# A bare socket is the kernel's: asyncio does not look at it while it is paused (`net.watch` does, from the layer above), and
# answers a protocol's exception with a FIN.
BARE = frozenset({"socket"})
