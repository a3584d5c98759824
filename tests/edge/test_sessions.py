from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.rawagent import CONNECTOR, accept, raw_agent
from tests.support.site import ACCOUNT, SECRET, TUNNEL_ID, tunnel, until

from penstock.errors import UnavailableError
from penstock.net.dial import dial_tls
from penstock.net.streams import ByteStream
from penstock.protocol import metadata
from penstock.protocol.registration import Refused, Registered, Registration, RegistrationClient, Unregistered
from penstock.tls import contexts

if TYPE_CHECKING:
    from tests.support.site import Site

pytestmark = pytest.mark.anyio

QUICK = {"feed_wait_seconds": 0.05, "stop_seconds": 0.2}


async def test_an_agent_with_the_secret_is_registered_and_told_where(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        registered = await agent.register()
        assert isinstance(registered, Registered)
        assert registered.location == "edge-1"
        assert not registered.remotely_managed
        assert len(list(edge.sessions.links_of(TUNNEL_ID))) == 1


@pytest.mark.parametrize(
    "claims",
    [{"secret": b"wrong"}, {"secret": b""}, {"tunnel_id": uuid.UUID(int=9).bytes}, {"account": "another"}],
    ids=["wrong secret", "no secret", "unknown tunnel", "another account"],
)
async def test_any_other_is_refused_so_that_it_tries_again_and_the_edge_closes_the_link(
    site: Site, claims: dict[str, Any]
) -> None:
    async with site.edge(limits=QUICK) as edge, raw_agent(site, edge) as agent:
        refused = await agent.register(**claims)
        assert isinstance(refused, Refused)
        assert refused.cause.startswith("Unauthorized: ")
        assert refused.should_retry
        assert await agent.lost is None  # closed in order, after the answer
        assert edge.sessions.registered == 0


async def test_an_agent_of_a_tunnel_made_a_moment_ago_waits_for_the_feed_and_is_registered(site: Site) -> None:
    site.tunnels = ()
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        registering = asyncio.gather(agent.register())
        await until(lambda: edge.sessions.open == 1)
        site.tunnels = (tunnel(),)
        site.publish(edge)
        assert isinstance((await registering)[0], Registered)


async def test_a_rotated_secret_refuses_new_links_at_once_and_leaves_live_ones(site: Site) -> None:
    async with site.edge(limits=QUICK) as edge, raw_agent(site, edge) as live:
        await live.register()
        site.tunnels = (tunnel(verifiers=("00" * 32,)),)
        site.publish(edge)
        async with raw_agent(site, edge) as late:
            assert isinstance(await late.register(secret=SECRET), Refused)
        assert edge.sessions.registered == 1
        assert not live.lost.done()


async def test_an_archived_tunnels_links_are_cut(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        await agent.register()
        site.tunnels = ()
        site.publish(edge)
        await agent.lost
        assert edge.sessions.registered == 0


async def test_unregistering_is_answered_then_streams_finish_and_then_the_edge_closes(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        stream = await agent.streams.get()
        accept(stream)
        ((response, transport),) = await asking
        assert response.status == 101
        assert isinstance(await agent.unregister(), Unregistered)
        refused, _ = await site.ask(edge)  # nothing new there
        assert refused.status == 502
        assert not agent.lost.done()
        far = ByteStream.over(stream)
        await far.write(b"the last answer")
        near = ByteStream.over(transport)
        assert await near.read(100) == b"the last answer"
        await near.aclose()
        assert await agent.lost is None


async def test_streams_of_an_agent_that_unregistered_are_cut_when_the_drain_takes_too_long(site: Site) -> None:
    async with site.edge(limits={"drain_seconds": 0.1, "stop_seconds": 0.1}) as edge, raw_agent(site, edge) as agent:
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        accept(await agent.streams.get())
        await asking
        await agent.unregister()
        await agent.lost


async def test_an_agent_that_never_registers_is_let_go(site: Site) -> None:
    async with (
        site.edge(limits={"registration_seconds": 0.2, "stop_seconds": 0.1}) as edge,
        raw_agent(site, edge) as agent,
    ):
        await agent.lost


async def test_a_peer_that_speaks_no_http2_is_let_go(site: Site) -> None:
    async with site.edge(limits={"registration_seconds": 0.5, "stop_seconds": 0.1}) as edge, asyncio.timeout(10):
        address = edge.agents_address
        transport = await dial_tls(
            address.host,
            address.port,
            context=contexts.agent_outer([site.edge_ca.certificate_pem]),
            server_hostname=metadata.EDGE_SERVER_NAME,
        )
        pipe = ByteStream.over(transport)
        await pipe.write(b"GET / HTTP/1.1\r\n\r\n")
        while await pipe.read(65_536):
            pass
        await pipe.aclose()


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_link_that_registers_again_is_ended_and_nothing_of_it_is_left(site: Site, at_once: bool) -> None:
    other = uuid.UUID(int=7)
    site.tunnels = (tunnel(), tunnel(id="tnl_02", wire_id=str(other), domain="ff00ff00.tunnel.penstock.internal"))
    async with site.edge(limits=QUICK) as edge, raw_agent(site, edge) as agent:
        if not at_once:
            assert isinstance(await agent.register(), Registered)
        calls = [RegistrationClient() for _ in range(2 if at_once else 1)]
        for call, tunnel_id in zip(calls, (other, TUNNEL_ID), strict=False):
            call.start(
                Registration(
                    connection_index=0,
                    account=ACCOUNT,
                    secret=SECRET,
                    tunnel_id=tunnel_id.bytes,
                    client_id=CONNECTOR,
                    version="2026.8.2",
                )
            )
        pipe = agent.pipe or ByteStream.over(await agent._control)
        await pipe.write(b"".join(call.data_to_send() for call in calls))
        await agent.lost
        await until(lambda: (edge.sessions.open, edge.sessions.registered) == (0, 0))
        assert list(edge.sessions.reports()) == []


async def test_garbage_on_the_control_stream_ends_that_link_alone(site: Site) -> None:
    async with site.edge() as edge, raw_agent(site, edge) as good, raw_agent(site, edge) as bad:
        await good.register()
        await bad.register()
        assert bad.pipe is not None
        await bad.pipe.write(b"\xff" * 64)
        await bad.lost
        await until(lambda: edge.sessions.registered == 1)
        assert not good.lost.done()


async def test_a_full_edge_ends_new_connections_before_their_tls(site: Site) -> None:
    async with site.edge(limits={"links": 1, "stop_seconds": 0.1}) as edge, raw_agent(site, edge) as first:
        await first.register()
        with pytest.raises(UnavailableError, match="the connection ended early"):  # a dial that failed is tried again
            async with raw_agent(site, edge):
                pass
        assert edge.sessions.registered == 1


async def test_a_refused_agent_has_read_why_before_its_link_is_closed(site: Site) -> None:
    async with site.edge(limits=QUICK) as edge, raw_agent(site, edge) as agent:
        assert isinstance(await agent.register(leaves=False, secret=b"wrong"), Refused)
        assert agent.pipe is not None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(agent.lost), 0.3)
        agent.pipe.transport.close()  # what a stock agent does when it has understood
        assert await agent.lost is None


async def test_the_stock_agents_other_names_are_on_the_edges_certificate(site: Site) -> None:
    async with site.edge() as edge, asyncio.timeout(10):
        address = edge.agents_address
        transport = await dial_tls(
            address.host,
            address.port,
            context=contexts.agent_outer([site.edge_ca.certificate_pem]),
            server_hostname=metadata.PROBE_SERVER_NAME,
        )
        transport.abort()
