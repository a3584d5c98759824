"""Nobody gets in who cannot prove who they are: not at the edge, and not past it, where the edge itself could be the liar."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs
from tests.support import ca
from tests.support.site import until
from tests.support.tape import Tape

from penstock.control.service.bootstrap import revoke_api_key
from penstock.edge.answers import answer_of, stream_request
from penstock.errors import PenstockError, TunnelError, TunnelErrorCode
from penstock.net.dial import dial_tcp, handshake
from penstock.net.streams import ByteStream
from penstock.net.transports import Parked
from penstock.net.upgrade import request_upgrade
from penstock.net.websocket import WebSocketTransport, open_websocket
from penstock.protocol.metadata import MANAGEMENT_HOSTS
from penstock.tls import contexts
from penstock.tls.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.world import Side, Upstream, World

    from penstock.tls.certs import KeyPair
    from penstock.tls.contexts import TLSContext

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n"
FORBIDDEN = TunnelErrorCode.CALLER_FORBIDDEN.value.encode()


@pytest.fixture(scope="module")
async def side(platform: World, upstream: Upstream) -> Side:
    return await platform.add_side({"echo": upstream.url})


@pytest.fixture(scope="module")
async def genuine(platform: World, side: Side) -> KeyPair:
    """The certificate that the platform's own client library gets."""
    async with platform.streams() as streams:
        return await streams._credentials.pair()


# --- at the edge ------------------------------------------------------------------------------------------------------


async def test_a_genuine_caller_is_let_in(platform: World, side: Side, genuine: KeyPair) -> None:
    """The control of all that follows."""
    assert (await platform.ask_edge(genuine, side.host())).status == 101


async def test_a_caller_without_a_certificate_is_refused_in_the_outer_handshake(platform: World, side: Side) -> None:
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        await platform.ask_edge(None, side.host())


async def test_a_caller_with_a_certificate_of_its_own_making_is_refused_in_the_outer_handshake(
    platform: World, side: Side
) -> None:
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        await platform.ask_edge(own_making(platform), side.host())


async def test_a_caller_with_an_expired_certificate_is_refused_in_the_outer_handshake(platform: World, side: Side) -> None:
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_EXPIRED"):
        await platform.ask_edge(await expired(platform), side.host())


async def test_a_caller_whose_certificate_is_not_in_the_feed_is_refused(platform: World, side: Side) -> None:
    """Signed by the caller CA, and never issued: what a stolen CA key alone would give."""
    forged = ca.caller(await platform.caller_ca(), **whose(platform))
    response = await platform.ask_edge(forged, side.host())
    assert (response.status, response.header(b"penstock-error")) == (403, FORBIDDEN)


async def test_a_foreign_tunnel_an_unknown_one_and_a_management_host_get_the_same_answer(platform: World, side: Side) -> None:
    other = await platform.other_workspace()
    async with platform.streams(other) as streams:
        stranger = await streams._credentials.pair()
    hosts = [side.host(), side.host().replace("echo", "nothing"), f"echo.unknown0.{side.stack.domain.partition('.')[2]}"]
    answers = [await platform.ask_edge(stranger, host) for host in (*hosts, *MANAGEMENT_HOSTS)]
    assert {answer.status for answer in answers} == {404}
    assert len({(tuple(answer.headers), answer.body) for answer in answers}) == 1


async def test_a_caller_of_another_workspace_gets_nowhere_with_the_client_library(
    platform: World, side: Side, upstream: Upstream
) -> None:
    before = upstream.connections
    other = await platform.other_workspace()
    async with platform.streams(other) as streams:
        with pytest.raises(TunnelError) as asked:  # control knows no such tunnel for it
            await streams.open(side.host())
    async with platform.streams(other, known_to=platform.access) as streams:
        with pytest.raises(TunnelError) as dialled:  # nor does the edge, had control said where it is
            await streams.open(side.host())
    assert asked.value.code is dialled.value.code is TunnelErrorCode.TUNNEL_NOT_FOUND
    assert upstream.connections == before


async def test_a_revoked_key_loses_its_open_streams_and_opens_no_new_ones(platform: World, side: Side) -> None:
    access, key_id = await platform.another_key()
    async with platform.streams(access) as streams:
        pipe = await (await streams.open(side.host())).start_tls()
        pair = await streams._credentials.pair()
        assert (await platform.ask_edge(pair, side.host())).status == 101

        await revoke_api_key(platform.config, key_id)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await asyncio.wait_for(pipe.read(1), 5)

    response = await platform.ask_edge(pair, side.host())
    assert (response.status, response.header(b"penstock-error")) == (403, FORBIDDEN)
    async with platform.streams(access) as streams:
        with pytest.raises(PenstockError, match="API key"):
            await streams.open(side.host())


# --- past the edge ----------------------------------------------------------------------------------------------------


async def through_the_link(platform: World, side: Side) -> WebSocketTransport:
    """A stream as an edge opens it, with all an edge has: the registered link."""
    tunnel = platform.edge.feed.directory.tunnel_of(side.host())
    assert tunnel is not None
    (session,) = platform.edge.sessions.links_of(UUID(tunnel.wire_id))
    key = base64.b64encode(os.urandom(16))
    head = stream_request(side.host(), "/", [(b"sec-websocket-key", key), (b"sec-websocket-version", b"13")])
    stream = session.link.open_stream(head)
    assert answer_of(await stream.response()).is_upgrade
    return open_websocket(stream, Parked(), client_side=True)


async def to_the_port(_: World, side: Side) -> WebSocketTransport:
    """A connection as a neighbour of the proxy opens it."""
    transport = await dial_tcp(side.proxy.address.host, side.proxy.address.port)
    response = await request_upgrade(transport, host=side.host())
    assert response.status == 101
    return open_websocket(transport, Parked(), client_side=True, initial=response.rest)


async def nothing(_: World) -> TLSContext:
    return contexts.caller_inspection()


async def nothing_and_an_older_tls(_: World) -> TLSContext:
    context = contexts.caller_inspection()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


async def a_certificate_of_its_own_making(platform: World) -> TLSContext:
    return presenting(own_making(platform))


async def the_edges_own_certificate(platform: World) -> TLSContext:
    return presenting(platform.edge_pair())


async def an_expired_certificate(platform: World) -> TLSContext:
    return presenting(await expired(platform))


async def a_certificate_that_names_nobody(platform: World) -> TLSContext:
    """Of the caller CA, so that OpenSSL is content."""
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return presenting(ca.server(await platform.caller_ca(), "somebody.example", usages=usages))


def presenting(pair: KeyPair) -> TLSContext:
    context = contexts.caller_inspection()
    contexts._present(context, pair)
    return context


def whose(platform: World) -> dict[str, str]:
    """The very identity of a caller that is known."""
    caller = next(iter(platform.edge.feed.directory.callers.values()), None)
    workspace = {"organization_id": platform.initial.organization_id, "workspace_id": platform.initial.workspace_id}
    return {**workspace, "caller_id": caller.caller_id if caller is not None else ca.CALLER}


def own_making(platform: World) -> KeyPair:
    return ca.caller(ca.ca("Penstock caller CA"), **whose(platform))


async def expired(platform: World) -> KeyPair:
    validity = ca.valid(timedelta(days=1), starts_in=-timedelta(days=2))
    return ca.caller(await platform.caller_ca(), validity=validity, **whose(platform))


async def ask(websocket: WebSocketTransport, side: Side, context: TLSContext) -> bytes:
    """Send a request inside a TLS of one's own, at the first moment there is; all that comes back."""
    received = b""
    try:
        with contextlib.suppress(OSError, PenstockError):
            async with asyncio.timeout(5):
                pipe = ByteStream.over(await handshake(websocket, context=context, server_hostname=side.host()))
                await pipe.write(REQUEST % side.host().encode())
                while data := await pipe.read(65_536):
                    received += data
    finally:
        websocket.abort()
    return received


PLACES: list[Callable[[World, Side], Awaitable[WebSocketTransport]]] = [through_the_link, to_the_port]
LIES: dict[Callable[[World], Awaitable[TLSContext]], str] = {
    nothing: "caller certificate missing",
    nothing_and_an_older_tls: "caller certificate missing",
    a_certificate_of_its_own_making: "caller certificate refused",
    the_edges_own_certificate: "caller certificate refused",
    an_expired_certificate: "caller certificate refused",
    a_certificate_that_names_nobody: Rule.CALLER_IDENTITY.value,
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
async def test_a_keyless_program_in_the_edges_place_or_beside_the_proxys_port_is_refused_by_the_proxy(
    platform: World,
    side: Side,
    upstream: Upstream,
    place: Callable[[World, Side], Awaitable[WebSocketTransport]],
    lie: Callable[[World], Awaitable[TLSContext]],
) -> None:
    inside, before = Tape(), upstream.connections
    with side.presenting(inside.on(side.proxy_context(side.pair))), capture_logs() as logs:
        assert await ask(await place(platform, side), side, await lie(platform)) == b""
        await until(lambda: [line["reason"] for line in logs if line["event"] == "tls handshake failed"] == [LIES[lie]])
    assert inside.everything == b""
    assert upstream.connections == before


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_with_a_callers_own_key_the_same_program_is_served(
    platform: World,
    side: Side,
    upstream: Upstream,
    genuine: KeyPair,
    place: Callable[[World, Side], Awaitable[WebSocketTransport]],
) -> None:
    """The control: what the refusals above hold is held by the key alone."""
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ask(await place(platform, side), side, presenting(genuine)))
        visit = await upstream.visit()
        await visit.head()
        await visit.answer(b"private")
        assert (await asked).endswith(b"private")


async def test_a_proxy_that_names_its_workspace_refuses_the_callers_of_others_though_the_edge_let_them_in(
    platform: World, upstream: Upstream, genuine: KeyPair
) -> None:
    side = await platform.add_side({"echo": upstream.url}, allow=(platform.initial.workspace_id,))
    async with platform.streams(await platform.other_workspace()) as streams:
        stranger = await streams._credentials.pair()
    before = upstream.connections
    with capture_logs() as logs:
        assert await ask(await through_the_link(platform, side), side, presenting(stranger)) == b""
        await until(lambda: Rule.CALLER_IDENTITY.value in [line.get("reason") for line in logs])
    assert upstream.connections == before

    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ask(await through_the_link(platform, side), side, presenting(genuine)))
        await (await upstream.visit()).answer(b"private")
        assert (await asked).endswith(b"private")
