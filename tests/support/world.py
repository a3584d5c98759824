"""The whole chain in one process, over real loopback sockets: control, edge, proxy and agent, composed as `penstock up` does.

What tests reach for: clients through the tunnel, a second workspace, the proxy's certificate, the edge's identity (what
somebody who took the edge over holds), the caller CA, and an upstream that the test plays itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import select
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2
import structlog
from tests.support.site import until
from tests.support.tape import Tap

from penstock.agent.server import Agent
from penstock.client.access import Access
from penstock.client.control import ControlClient
from penstock.client.streams import TunnelStreams
from penstock.client.transport import TunnelTransport
from penstock.control.server import Control
from penstock.control.service import bootstrap, roots
from penstock.edge.config import EdgeLimits
from penstock.edge.server import Edge
from penstock.edge.state import EdgeState
from penstock.net.dial import dial_tls
from penstock.net.transports import cut
from penstock.net.upgrade import UpgradeResponse, request_upgrade
from penstock.proxy.server import Proxy
from penstock.schema.callers import EdgeAddress, Resolution
from penstock.secret import Secret
from penstock.tls import certs, contexts
from penstock.tls.names import edge_server_name
from penstock.up import roles, stack
from penstock.up.options import Options
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator
    from pathlib import Path

    from penstock.control.config import ControlConfig
    from penstock.edge.state import EdgeIdentity
    from penstock.tls.certs import Authority, KeyPair
    from penstock.tls.contexts import TLSContext

EDGE_NAME = "up"  # what `up` calls its edge


# --- the platform -----------------------------------------------------------------------------------------------------


@dataclass
class World:
    """Control and an edge, and the private sides behind it. Made by `world`."""

    options: Options
    config: ControlConfig
    initial: bootstrap.Initial
    control: Control
    edge: Edge
    started: contextlib.AsyncExitStack
    sides: list[Side] = field(default_factory=list)

    async def add_edge(self, name: str, **changes: Any) -> Edge:
        """One more edge; its `stop` may be called before the world's end. An agent learns of it over its links."""
        ports = choose_free()
        config = self.edge._config.model_copy(
            update={
                "name": name,
                "state_dir": self.options.folder / name,
                "callers_addr": ports.callers,
                "agents_addr": ports.agents,
                **changes,
            }
        )
        edge = Edge(config)
        await edge.start()
        self.started.push_async_callback(edge.stop)
        return edge

    # --- the private side -------------------------------------------------------------------------------------------

    @property
    def side(self) -> Side:
        """The first tunnel."""
        return self.sides[0]

    async def add_side(
        self,
        routes: dict[str, str],
        *,
        links: int = 1,
        tapped: bool = False,
        authority: Authority | None = None,
        allow: tuple[str, ...] | None = None,
        manager: Access | None = None,
    ) -> Side:
        """One more tunnel with its proxy and agent.

        tapped: a recording relay between the two. authority: its CA. allow: the proxy's setting `callers.allow`.
        manager: whose workspace it is in, if not the first.
        """
        folder = self.options.folder / f"stack-{len(self.sides)}"
        folder.mkdir()
        if authority is not None:  # `up` takes the CA that it finds
            (folder / "ca.crt").write_text(authority.certificate_pem)
            (folder / "ca.key").write_text(authority.key_pem.reveal())
        manager = manager or self.manager
        async with ControlClient(manager.api_url, manager.api_key) as client:
            made = await stack.prepare(folder, client)
        options = dataclasses.replace(self.options, ports=choose_free())
        config = roles.proxy(options, made, routes)
        callers = config.callers.model_copy(update={"allow": allow})
        proxy = Proxy(config.model_copy(update={"admin_addr": None, "shutdown_timeout": 1.0, "callers": callers}))
        await proxy.start()
        self.started.push_async_callback(proxy.stop)
        tap = await self.started.enter_async_context(Tap(proxy.address)) if tapped else None
        changes = {"metrics": None, "ha_connections": links, "grace_period": 1.0}
        settings = roles.agent(options, made).model_copy(update={**changes, **({"url": tap.url} if tap else {})})
        agent = Agent(settings)
        await agent.start()
        self.started.push_async_callback(agent.stop)
        await until(lambda: agent.links == links)
        key = certs.Authority.load((folder / "ca.crt").read_text(), Secret((folder / "ca.key").read_text()))
        side = Side(self, made, key, proxy, agent, tap)
        self.sides.append(side)
        return side

    # --- callers ----------------------------------------------------------------------------------------------------

    @property
    def access(self) -> Access:
        """The first workspace's."""
        return Access(self.control.url, self.initial.api_key)

    @property
    def manager(self) -> Access:
        """The first workspace's Tunnels API key."""
        return Access(self.control.url, self.initial.tunnels_key)

    @contextlib.asynccontextmanager
    async def client(self, access: Access | None = None, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
        """An HTTP client whose requests go through the tunnel."""
        transport = TunnelTransport(access or self.access)
        async with httpx2.AsyncClient(transport=transport, timeout=httpx2.Timeout(10.0), **settings) as client:
            yield client

    @contextlib.asynccontextmanager
    async def streams(
        self, access: Access | None = None, *, edge: EdgeAddress | None = None, known_to: Access | None = None
    ) -> AsyncIterator[TunnelStreams]:
        """The client library's streams. edge: dial this one instead; known_to: control's answers are another key's."""
        streams = TunnelStreams(access or self.access)
        own = streams._control  # the credentials go on with it
        streams._control = _Directed(known_to or access or self.access, edge)
        async with own, streams._control:
            yield streams

    async def other_workspace(self) -> Access:
        """An API key of a workspace that has no tunnel."""
        workspace_id = await bootstrap.create_workspace(self.config, self.initial.organization_id, "other")
        return (await self.another_key(workspace_id))[0]

    async def another_key(self, workspace_id: str | None = None) -> tuple[Access, str]:
        """One more API key, and its id."""
        key = await bootstrap.create_api_key(self.config, workspace_id or self.initial.workspace_id)
        return Access(self.control.url, key.secret), key.id

    # --- what somebody holds who took something over ----------------------------------------------------------------

    def edge_identity(self) -> EdgeIdentity:
        """The edge's key and certificates, as they lie in its folder."""
        identity = EdgeState(self.options.folder / "edge").load_identity()
        assert identity is not None
        return identity

    def edge_pair(self) -> KeyPair:
        """The edge's certificate and key."""
        identity = self.edge_identity()
        return certs.KeyPair(identity.certificate_pem, identity.key_pem)

    @property
    def edge_address(self) -> EdgeAddress:
        """Where callers find the edge."""
        address = self.edge.callers_address
        return EdgeAddress(host=address.host, port=address.port, server_name=edge_server_name(EDGE_NAME))

    async def caller_ca(self) -> Authority:
        """What signs callers, out of the control plane's store."""
        async with bootstrap.open_core(self.config) as core, core.database.read() as connection:
            return await roots.caller_ca(core, connection, self.initial.organization_id)

    async def edge_ca(self) -> Authority:
        """What signs edges, out of the control plane's store."""
        async with bootstrap.open_core(self.config) as core, core.database.read() as connection:
            return await roots.edge_ca(core, connection)

    async def ask_edge(self, pair: KeyPair | None, host: str) -> UpgradeResponse:
        """Ask the edge for a stream, below the client library; without a certificate where `pair` is None."""
        edge_ca = self.edge_identity().edge_ca_pem
        context = contexts.caller_outer(edge_ca, pair) if pair is not None else contexts.caller_inner([edge_ca], None)
        to = self.edge_address
        transport = await dial_tls(to.host, to.port, context=context, server_hostname=to.server_name, timeout=5.0)
        try:
            return await request_upgrade(transport, host=host, timeout=5.0)
        finally:
            transport.abort()


@dataclass
class Side:
    """The private side of one tunnel."""

    world: World
    stack: stack.Stack
    authority: Authority
    proxy: Proxy
    agent: Agent
    tap: Tap | None

    def host(self, route: str = "echo") -> str:
        return f"{route}.{self.stack.domain}"

    def url(self, path: str = "/", route: str = "echo") -> str:
        return f"https://{self.host(route)}{path}"

    @property
    def pair(self) -> KeyPair:
        """The proxy's certificate and key."""
        return contexts.read_key_pair(self.stack.certificate_file, self.stack.key_file)

    def proxy_context(self, pair: KeyPair) -> TLSContext:
        """What the proxy would use with this certificate; callers are checked as its own settings say."""
        callers = self.proxy._config.callers
        assert callers.ca_file is not None
        return contexts.proxy_inner(pair, [contexts.read_pem(callers.ca_file)], callers.mode)

    @contextlib.contextmanager
    def presenting(self, context: TLSContext) -> Generator[None]:
        """The proxy shows another certificate meanwhile, as after a reload."""
        good = self.proxy.live
        self.proxy._live = dataclasses.replace(good, identity=dataclasses.replace(good.identity, context=context))
        try:
            yield
        finally:
            self.proxy._live = good


@contextlib.asynccontextmanager
async def world(folder: Path, *, edge_limits: EdgeLimits | None = None, **changes: Any) -> AsyncIterator[World]:
    """Control, with these settings, and an edge; everything added to it stops in the opposite order."""
    structlog.reset_defaults()  # an earlier test may have configured; roles then log where nobody captures
    options = Options(folder=folder, ports=choose_free())
    config = roles.control(options).model_copy(update={"admin_addr": None, "change_poll_interval": 0.02, **changes})
    initial = await bootstrap.initialize(config)
    (folder / "enrolment-token").write_text(initial.enrolment_token.reveal())
    async with contextlib.AsyncExitStack() as started:
        control = Control(config)
        await control.start()
        started.push_async_callback(control.stop)
        settings = roles.edge(options, control.url, folder / "enrolment-token")
        limits = edge_limits or EdgeLimits(stop_seconds=1.0)
        edge = Edge(settings.model_copy(update={"admin_addr": None, "limits": limits}))
        await edge.start()
        started.push_async_callback(edge.stop)
        yield World(options, config, initial, control, edge, started)


class _Directed(ControlClient):
    """Control's answers, with another edge in them; or those that another key gets."""

    def __init__(self, access: Access, edge: EdgeAddress | None) -> None:
        super().__init__(access.api_url, access.api_key)
        self._edge = edge

    async def resolve(self, host: str) -> Resolution:
        resolution = await super().resolve(host)
        return resolution if self._edge is None else resolution.model_copy(update={"edges": (self._edge,)})


# --- upstreams --------------------------------------------------------------------------------------------------------


class Upstream:
    """An HTTP/1.1 server that the test plays itself: `await visit()` is the next connection."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._visits: asyncio.Queue[Visit] = asyncio.Queue()
        self._all: list[Visit] = []

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many there ever were."""
        return len(self._all)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._visited, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for visit in self._all:
            visit.writer.transport.abort()

    def _visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit(reader, writer)
        self._all.append(visit)
        self._visits.put_nowait(visit)

    async def visit(self) -> Visit:
        async with asyncio.timeout(5):
            return await self._visits.get()


@dataclass
class Visit:
    """One connection to an `Upstream`. Nothing is read that was not asked for, beyond 128 KiB."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_asked: bool = False

    async def head(self) -> bytes:
        """The next request's head."""
        self.is_asked = True
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def write(self, data: bytes) -> None:
        """Write, and wait while the other side takes no more."""
        if self.writer.transport.is_closing():
            raise ConnectionResetError("the proxy has ended the connection")
        self.writer.write(data)
        await self.writer.drain()

    async def send(self, data: bytes) -> None:
        """Write what must be taken at once."""
        async with asyncio.timeout(5):
            await self.write(data)

    async def answer(self, body: bytes = b"ok") -> None:
        """A whole response, and the end: the next request is a new visit."""
        if not self.is_asked:  # closed with a request unread, a socket resets
            await self.head()
        await self.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        self.end()

    def end(self) -> None:
        """Deliver what was sent, then end."""
        self.writer.close()

    def reset(self) -> None:
        """Cut, so that the peer knows it for one."""
        cut(self.writer.transport)

    @property
    def is_cut(self) -> bool:
        """Whether the peer has reset the connection, seen without reading a byte of what waits."""
        if self.writer.transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self.writer.get_extra_info("socket").fileno(), 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
