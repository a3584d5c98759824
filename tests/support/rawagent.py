"""An agent one step at a time: what a stock one does on the wire, and what a hostile or broken one does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from tests.support.site import ACCOUNT, SECRET, TUNNEL_ID

from penstock.net.dial import dial_tls
from penstock.net.link import Link, LinkStream
from penstock.net.streams import ByteStream
from penstock.net.upgrade import accept_for
from penstock.protocol import metadata
from penstock.protocol.http2 import Role, Settings
from penstock.protocol.registration import Refused, Registration, RegistrationClient
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.site import Site

    from penstock.edge.server import Edge

CONNECTOR = b"connector-id-16b"


def accept(stream: LinkStream) -> None:
    """Answer as an agent whose proxy took the upgrade."""
    key = dict(stream.headers)[b"sec-websocket-key"]
    packed = metadata.serialize_headers([(b"Sec-WebSocket-Accept", accept_for(key))])
    stream.respond([(b":status", b"200"), (metadata.RESPONSE_HEADERS, packed), (metadata.RESPONSE_META, metadata.META_ORIGIN)])


class RawAgent:
    """One link to an edge; streams other than the control stream wait in `streams`."""

    def __init__(self, settings: Settings | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.link = Link(Role.AGENT, self, settings=settings)
        self.streams: asyncio.Queue[LinkStream] = asyncio.Queue()
        self.lost: asyncio.Future[Exception | None] = loop.create_future()
        self.rpc = RegistrationClient()
        self.pipe: ByteStream | None = None
        self._control: asyncio.Future[LinkStream] = loop.create_future()

    def link_made(self) -> None:
        pass

    def link_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    def stream_requested(self, stream: LinkStream) -> None:
        if dict(stream.headers).get(metadata.UPGRADE) == metadata.CONTROL_STREAM:
            stream.respond([(b":status", b"200")])
            self._control.set_result(stream)
        else:
            self.streams.put_nowait(stream)

    async def register(self, *, leaves: bool = True, **claims: Any) -> Any:
        """Registration as a stock agent does it; what the edge answered. Refused, it `leaves`: it ends the control stream."""
        self.pipe = ByteStream.over(await self._control)
        values: dict[str, Any] = {
            "connection_index": 0,
            "account": ACCOUNT,
            "secret": SECRET,
            "tunnel_id": TUNNEL_ID.bytes,
            "client_id": CONNECTOR,
            "version": "2026.8.2",
        }
        self.rpc.start(Registration(**{**values, **claims}))
        answer = await self._ask()
        if leaves and isinstance(answer, Refused):
            self.pipe.transport.close()
        return answer

    async def unregister(self) -> Any:
        self.rpc.unregister()
        return await self._ask()

    async def _ask(self) -> Any:
        assert self.pipe is not None
        await self.pipe.write(self.rpc.data_to_send())
        while True:
            data = await self.pipe.read(65_536)
            assert data, "the control stream ended"
            events = self.rpc.receive_data(data)
            if more := self.rpc.data_to_send():
                await self.pipe.write(more)
            if events:
                return events[0]


@contextlib.asynccontextmanager
async def raw_agent(site: Site, edge: Edge, settings: Settings | None = None) -> AsyncIterator[RawAgent]:
    agent = RawAgent(settings)
    address = edge.agents_address
    transport = await dial_tls(
        address.host,
        address.port,
        context=contexts.agent_outer([site.edge_ca.certificate_pem]),
        server_hostname=metadata.EDGE_SERVER_NAME,
    )
    transport.set_protocol(agent.link)
    agent.link.connection_made(transport)
    transport.resume_reading()
    try:
        async with asyncio.timeout(20):
            yield agent
    finally:
        agent.link.abort()
        await asyncio.wait([agent.lost], timeout=5)
