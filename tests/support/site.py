"""An edge without a control plane: identity and signed snapshot are put into its folder, as a restart would find them.

Also what stands around it in tests: origins that take an upgrade, callers, and the tokens agents run on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support import ca
from tests.support.ca import CALLER, DOMAIN, HOST, ORGANIZATION, WORKSPACE
from tests.support.current import current

from penstock.agent.config import AgentConfig
from penstock.agent.server import Agent
from penstock.edge import pages
from penstock.edge.config import EdgeConfig
from penstock.edge.server import Edge
from penstock.edge.state import EdgeState, StoredPage, identity_of
from penstock.net.dial import dial_tls
from penstock.net.streams import ByteStream
from penstock.net.transports import cut
from penstock.net.upgrade import UpgradeListener, UpgradeRequest, UpgradeResponse, request_upgrade
from penstock.net.watch import PauseWatch
from penstock.protocol import metadata
from penstock.protocol.token import TunnelToken
from penstock.schema.edges import SNAPSHOT_CONTEXT, CallerRecord, EdgeEnrolment, EdgeRecord, Snapshot, TunnelRecord
from penstock.secret import Secret
from penstock.tls import certs, contexts
from penstock.tls.names import caller_identity, edge_server_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.current import Current

    from penstock.tls.certs import KeyPair

SECRET = bytes(range(32))
TUNNEL_ID = uuid.UUID("9a1b0c4e-0000-4000-8000-000000000001")
ACCOUNT = "acct-test"
AWAY = "http://127.0.0.1:9"  # discard: nothing answers, an edge lives on what it has


def tunnel(**changes: Any) -> TunnelRecord:
    record: dict[str, Any] = {
        "id": "tnl_01TestTunnel",
        "wire_id": str(TUNNEL_ID),
        "account": ACCOUNT,
        "domain": DOMAIN,
        "organization_id": ORGANIZATION,
        "workspace_id": WORKSPACE,
        "verifiers": (hashlib.sha256(SECRET).hexdigest(),),
        "certificates": 1,
    }
    return TunnelRecord(**{**record, **changes})


def caller_record(pair: KeyPair, **changes: Any) -> CallerRecord:
    identity = caller_identity(certs.certificate_to_der(certs.load_certificate(pair.certificate_pem)))
    record: dict[str, Any] = {
        "serial": identity.serial,
        "caller_id": identity.caller_id,
        "organization_id": identity.organization_id,
        "workspace_id": identity.workspace_id,
        "expires_at": datetime.now(UTC) + timedelta(hours=24),
    }
    return CallerRecord(**{**record, **changes})


@dataclass
class Site:
    """The trust around one edge, and the means to run edges, agents and callers under it."""

    folder: Path
    edge_ca: certs.Authority = field(default_factory=lambda: ca.ca("edge-ca"))
    caller_ca: certs.Authority = field(default_factory=lambda: ca.ca("caller-ca"))
    feed_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    version: int = 0
    dialled: list[asyncio.Transport] = field(default_factory=list)
    enrolled: set[str] = field(default_factory=set)
    agent_edges: tuple[str, ...] = ()
    edges: tuple[EdgeRecord, ...] = ()
    caller_ca_pem: str = ""
    told_cas: tuple[certs.Authority, ...] = ()
    edge_names: list[str] = field(default_factory=lambda: [metadata.EDGE_SERVER_NAME, metadata.PROBE_SERVER_NAME])
    controls: dict[str, Current] = field(default_factory=dict[str, "Current"])
    """What each edge hears, by its name."""
    edge_validity: certs.Validity = field(default_factory=ca.valid)

    def __post_init__(self) -> None:
        self.caller = ca.caller(self.caller_ca, caller_id=CALLER)
        self.tunnels: tuple[TunnelRecord, ...] = (tunnel(),)
        self.callers: tuple[CallerRecord, ...] = (caller_record(self.caller),)

    # --- the feed ---------------------------------------------------------------------------------------------------

    @property
    def public_key(self) -> bytes:
        return self.feed_key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def snapshot(self, mark: str = "") -> StoredPage:
        self.version += 1
        snapshot = Snapshot(
            version=self.version,
            mark=mark,
            tunnels=self.tunnels,
            callers=self.callers,
            agent_edges=self.agent_edges,
            edges=self.edges,
            caller_ca_pem=self.caller_ca_pem,
            edge_ca_pem="".join(told.certificate_pem for told in self.told_cas),
        )
        body = snapshot.model_dump_json().encode()
        return StoredPage(body, self.feed_key.sign(SNAPSHOT_CONTEXT + body), time.time())

    def publish(self, *edges: Edge) -> None:
        """The feed brings the present tunnels and callers."""
        stored = self.snapshot()
        for edge in edges:
            edge.feed.take(pages.whole(self.public_key, stored), stored.confirmed_at)

    # --- the edge ---------------------------------------------------------------------------------------------------

    def enrolment(self, name: str, public_key: certs.PublicKey) -> EdgeEnrolment:
        certificate = certs.issue_server(
            self.edge_ca,
            public_key,
            names=[edge_server_name(name), *self.edge_names],
            validity=self.edge_validity,
            serial=ca.serial(),
            is_client_too=True,
        )
        return EdgeEnrolment(
            edge_id="edg_01TestEdge",
            credential="pst-edge-test",
            certificate_pem=certs.certificate_to_pem(certificate),
            edge_ca_pem=self.edge_ca.certificate_pem,
            caller_ca_pem=self.caller_ca.certificate_pem,
            feed_key=base64.b64encode(self.public_key).decode(),
        )

    def edge_config(self, name: str = "edge-1", **settings: Any) -> EdgeConfig:
        """An enrolled edge's settings, with its folder filled."""
        folder = self.folder / name
        if not folder.exists():
            key = certs.make_ec_key()
            state = EdgeState(folder)
            state.prepare()
            state.save_identity(identity_of(self.enrolment(name, key.public_key()), certs.key_to_pem(key)))
            state.save_snapshot(self.snapshot(), self.version)
            self.enrolled.add(name)
        if name in self.enrolled:
            (folder / "addresses").unlink(missing_ok=True)  # enrolled by hand, wherever it listens next
        values: dict[str, Any] = {
            "control_url": AWAY,
            "state_dir": folder,
            "name": name,
            "callers_addr": "127.0.0.1:0",
            "agents_addr": "127.0.0.1:0",
            "admin_addr": None,
        }
        return EdgeConfig.model_validate({**values, **settings})

    @contextlib.asynccontextmanager
    async def edge(self, name: str = "edge-1", **settings: Any) -> AsyncIterator[Edge]:
        """An edge that control has told that what it holds is current; one with a `control_url` is left to that."""
        async with contextlib.AsyncExitStack() as stack:
            if "control_url" not in settings:
                self.controls[name] = await stack.enter_async_context(current(self.feed_key))
                settings["control_url"] = self.controls[name].url
            edge = Edge(self.edge_config(name, **{"limits": {"stop_seconds": 1.0}, **settings}))
            await edge.start()
            try:
                yield edge
            finally:
                async with asyncio.timeout(10):
                    await edge.stop()
                    await self.hang_up()

    # --- the agent --------------------------------------------------------------------------------------------------

    def token(self, *edges: str, secret: bytes = SECRET, tunnel_id: uuid.UUID = TUNNEL_ID) -> Secret:
        der = certs.certificate_to_der(self.edge_ca.certificate)
        return TunnelToken(
            account=ACCOUNT,
            tunnel_id=tunnel_id,
            secret=Secret(base64.b64encode(secret).decode()),
            edges=edges,
            cas=(der,),
        ).encode()

    def agent_config(self, *edges: Edge, url: str, **settings: Any) -> AgentConfig:
        values: dict[str, Any] = {
            "token": self.token(*(str(edge.agents_address) for edge in edges)),
            "url": url,
            "metrics": None,
            "grace_period": 1.0,
            "limits": {"backoff_first": 0.1, "backoff_most": 0.2},
        }
        return AgentConfig.model_validate({**values, **settings})

    @contextlib.asynccontextmanager
    async def agent(self, *edges: Edge, url: str, links: int = 4, **settings: Any) -> AsyncIterator[Agent]:
        """A running agent with all its links."""
        agent = Agent(self.agent_config(*edges, url=url, ha_connections=links, **settings))
        await agent.start()
        try:
            await until(lambda: agent.links == links)
            yield agent
        finally:
            async with asyncio.timeout(10):
                await agent.stop()

    # --- callers ----------------------------------------------------------------------------------------------------

    async def dial(self, edge: Edge, *, pair: KeyPair | None = None) -> asyncio.Transport:
        context = contexts.caller_outer(self.edge_ca.certificate_pem, pair or self.caller)
        address = edge.callers_address
        transport = await dial_tls(
            address.host, address.port, context=context, server_hostname=edge_server_name(edge.sessions.name), timeout=5.0
        )
        self.dialled.append(transport)
        return transport

    async def hang_up(self) -> None:
        """End every caller's socket and wait for it, so that a test leaves nothing open."""
        for transport in self.dialled:
            below = transport.get_extra_info("socket")
            if below is not None and below.fileno() != -1:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(below.fileno())) as raw:
                    raw.shutdown(socket.SHUT_RDWR)  # uvloop's stand-in for a socket cannot
            cut(transport)
            await until(lambda transport=transport: _is_gone(transport))
        self.dialled.clear()
        await asyncio.sleep(0.01)  # the edge's ends of them

    async def ask(
        self, edge: Edge, *, host: str = HOST, pair: KeyPair | None = None, headers: list[tuple[bytes, bytes]] | None = None
    ) -> tuple[UpgradeResponse, asyncio.Transport]:
        """Ask an edge for a stream."""
        transport = await self.dial(edge, pair=pair)
        response = await request_upgrade(transport, host=host, headers=headers or (), timeout=5.0)
        return response, transport

    async def open(self, edge: Edge, **asked: Any) -> tuple[ByteStream, UpgradeResponse]:
        """An open stream to the origin."""
        response, transport = await self.ask(edge, **asked)
        assert response.status == 101, (response.status, response.body)
        return ByteStream.over(transport, initial=response.rest), response


def _is_gone(transport: asyncio.Transport) -> bool:
    below = transport.get_extra_info("socket")  # uvloop's transports forget theirs
    return below is None or below.fileno() == -1


# --- origins ----------------------------------------------------------------------------------------------------------


class Origin:
    """What stands in the proxy's place: takes every upgrade, keeps its head, and runs `protocol` behind it."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._factory = protocol
        self.requests: list[UpgradeRequest] = []
        self.protocols: list[Any] = []
        self.server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: UpgradeListener(self._accept), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()
        for request in self.requests:
            if not request.transport.is_closing():
                request.transport.abort()

    def _accept(self, request: UpgradeRequest) -> None:
        self.requests.append(request)
        early = request.accept()
        protocol = self._factory()
        self.protocols.append(protocol)
        request.transport.set_protocol(protocol)
        protocol.connection_made(request.transport)
        if early:
            protocol.data_received(early)
        if not isinstance(protocol, Stalled):
            request.transport.resume_reading()


class Echo(asyncio.Protocol):
    """Sends back what comes, with back-pressure."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.gone = asyncio.get_running_loop().create_future()
        self.received = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(exc)


class Stalled(Echo):
    """Reads nothing until told to; then only counts. Like a proxy's, its socket is watched meanwhile."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.pause_reading()
        PauseWatch(transport, self.connection_lost).arm()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)


class Source(Echo):
    """Sends `size` bytes as fast as they are taken, then ends."""

    size = 1_000_000
    chunk = bytes(65_536)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.left = self.size
        self._paused = False
        asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        while self.left and not self._paused and not self.transport.is_closing():
            piece = self.chunk[: min(self.left, len(self.chunk))]
            self.left -= len(piece)
            self.transport.write(piece)
        if not self.left:
            self.transport.close()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        # Later: CPython's socket transport loses its head when it is closed inside resume_writing.
        asyncio.get_running_loop().call_soon(self._send)


async def until(holds: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Wait for a state that nobody announces; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)
