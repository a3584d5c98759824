"""What an edge takes on from callers, and how it says that it takes no more."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ssl
import termios
from typing import TYPE_CHECKING, Any

import pytest
from tests.protocol.test_proxy_protocol import tcp
from tests.support.rawagent import accept, raw_agent
from tests.support.site import TUNNEL_ID, Echo, Origin, Source, Stalled, tunnel, until

from penstock.net.dial import dial_tcp, handshake
from penstock.net.streams import ByteStream
from penstock.net.upgrade import request_upgrade
from penstock.tls import contexts
from penstock.tls.names import edge_server_name

if TYPE_CHECKING:
    from tests.support.site import Site

    from penstock.edge.server import Edge
    from penstock.net.upgrade import UpgradeResponse

pytestmark = pytest.mark.anyio

QUICK = {"stop_seconds": 0.1}


async def answer(site: Site, edge: Edge, **asked: Any) -> UpgradeResponse:
    async with asyncio.timeout(10):
        response, transport = await site.ask(edge, **asked)
    transport.abort()
    return response


def said(response: UpgradeResponse) -> tuple[int, bytes | None, bytes | None]:
    return response.status, response.header(b"penstock-error"), response.header(b"retry-after")


# --- shares -----------------------------------------------------------------------------------------------------------


async def test_a_tunnel_at_its_limit_is_refused_until_a_stream_ends_however_streams_end(site: Site) -> None:
    limits = {**QUICK, "tunnel": {"streams": 2}}
    async with Origin(Echo) as origin, site.edge(limits=limits) as edge, site.agent(edge, url=origin.url, links=1):
        one, _ = await site.open(edge)
        other, _ = await site.open(edge)
        assert said(await answer(site, edge)) == (429, b"rate_limited", b"5")
        one.transport.abort()
        await until(lambda: edge.ingress.live == 1)
        again, _ = await site.open(edge)
        assert (await answer(site, edge)).status == 429
        origin.protocols[-1].transport.abort()
        await until(lambda: edge.ingress.live == 1)
        last, _ = await site.open(edge)
        for stream in (other, again, last):
            stream.transport.abort()


async def test_a_stream_that_was_not_opened_takes_no_place(site: Site) -> None:
    async with site.edge(limits={**QUICK, "tunnel": {"streams": 1}}) as edge, raw_agent(site, edge) as agent:
        assert (await answer(site, edge)).status == 502  # no agent
        await agent.register()
        asking = asyncio.gather(site.ask(edge))
        (await agent.streams.get()).respond([(b":status", b"403")], b"no")  # the proxy's refusal
        assert (await asking)[0][0].status == 403
        asking = asyncio.gather(site.ask(edge))
        await agent.streams.get()
        asking.cancel()  # the caller leaves
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: edge.ingress.waiting == 0)
        asking = asyncio.gather(site.ask(edge))
        accept(await agent.streams.get())
        ((response, transport),) = await asking
        assert response.status == 101
        transport.abort()


async def test_an_organization_that_opens_too_fast_is_told_when_to_come_back(site: Site) -> None:
    limits = {**QUICK, "organization": {"streams_per_second": 0.1, "burst": 2}}
    async with Origin(Echo) as origin, site.edge(limits=limits) as edge, site.agent(edge, url=origin.url, links=1):
        for _ in range(2):
            stream, _ = await site.open(edge)
            stream.transport.abort()
        status, code, after = said(await answer(site, edge))
        assert (status, code) == (429, b"rate_limited")
        assert after in {b"9", b"10"}


async def test_a_tunnel_over_its_bytes_waits_loses_nothing_and_another_does_not_wait(site: Site) -> None:
    rate = 512 * 1024
    other = tunnel(id="tnl_01Other", wire_id="9a1b0c4e-0000-4000-8000-000000000002", domain="other0.tunnel.example.com")
    site.tunnels = (tunnel(), other)
    limits = {**QUICK, "tunnel": {"bytes_per_second": rate}}
    loop = asyncio.get_running_loop()
    async with (
        Origin(Echo) as origin,
        site.edge(limits=limits) as edge,
        site.agent(edge, url=origin.url, links=1),
        raw_agent(site, edge) as agent,
        asyncio.timeout(30),
    ):
        await agent.register(tunnel_id=b"\x9a\x1b\x0c\x4e\x00\x00\x40\x00\x80\x00\x00\x00\x00\x00\x00\x02")
        stream, _ = await site.open(edge)
        began = loop.time()
        stream.transport.write(bytes(rate))  # there and back again is two seconds' worth, one of them free
        received = 0
        while received < rate // 4:
            received += len(await stream.read(65_536))
        asking = asyncio.gather(site.ask(edge, host=f"echo.{other.domain}"))
        accept(await agent.streams.get())
        ((response, transport),) = await asking
        assert response.status == 101
        transport.abort()
        while received < rate:
            received += len(await stream.read(65_536))
        assert received == rate
        assert loop.time() - began > 0.5
        stream.transport.abort()


# --- links ------------------------------------------------------------------------------------------------------------


async def test_a_link_of_our_agents_takes_4096_streams_at_once_unless_set_otherwise(site: Site) -> None:
    async with site.edge() as edge, site.agent(edge, url="http://127.0.0.1:9", links=1):
        (session,) = edge.sessions.links_of(TUNNEL_ID)
        assert session.link._http._ledger.peer.max_concurrent_streams == edge._config.limits.streams_a_link == 4096


async def test_links_that_carry_all_they_can_are_said_to_be_full_until_a_stream_ends(site: Site) -> None:
    limits = {**QUICK, "streams_a_link": 3}  # the control stream is one
    async with Origin(Echo) as origin, site.edge(limits=limits) as edge, site.agent(edge, url=origin.url, links=1):
        one, _ = await site.open(edge)
        other, _ = await site.open(edge)
        response = await answer(site, edge)
        assert said(response) == (429, b"rate_limited", b"1")
        assert b"as many streams as they can" in response.body
        one.transport.abort()
        await until(lambda: edge.ingress.live == 1)
        again, _ = await site.open(edge)
        other.transport.abort()
        again.transport.abort()


async def test_while_too_much_waits_for_slow_links_new_streams_are_refused_and_the_others_go_on(site: Site) -> None:
    limits = {**QUICK, "buffer_bytes": "64KiB"}
    async with (
        Origin(Stalled) as origin,
        site.edge(limits=limits) as edge,
        site.agent(edge, url=origin.url, links=1),
        asyncio.timeout(20),
    ):
        stream, _ = await site.open(edge)
        assert (await answer(site, edge)).status == 101  # idle streams cost nothing
        stream.transport.write(bytes(20_000_000))
        while said(await answer(site, edge)) != (429, b"rate_limited", b"1"):  # sockets on the way fill first
            pass
        origin.protocols[0].transport.resume_reading()
        await until(lambda: origin.protocols[0].received == 20_000_000, seconds=15)
        await until(lambda: not edge.sessions.budget.is_spent)
        assert (await answer(site, edge)).status == 101
        stream.transport.abort()


async def test_a_stream_on_a_link_that_has_died_unnoticed_is_opened_on_another_and_the_next_do_not_wait(site: Site) -> None:
    async with (
        site.edge(limits={**QUICK, "silent_seconds": 0.3}) as edge,
        raw_agent(site, edge) as one,
        raw_agent(site, edge) as other,
        asyncio.timeout(10),
    ):
        await one.register()
        await other.register()
        await asyncio.sleep(0.6)  # what was heard just now is sign enough of life
        asking = asyncio.gather(site.ask(edge))
        first, second = asyncio.gather(one.streams.get()), asyncio.gather(other.streams.get())
        done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        dead, waiting, alive = (one, second, other) if first in done else (other, first, one)
        assert dead.link._lower is not None
        dead.link._lower.pause_reading()
        dead.link._flush = lambda: None  # type: ignore[method-assign]  # what it read already it does not answer
        accept((await waiting)[0])
        ((response, transport),) = await asking
        assert response.status == 101
        transport.abort()
        for _ in range(3):
            asking = asyncio.gather(site.ask(edge))
            accept(await alive.streams.get())
            ((response, transport),) = await asking
            assert response.status == 101
            transport.abort()


# --- where from -------------------------------------------------------------------------------------------------------


async def test_callers_from_outside_the_list_are_forbidden_and_from_inside_are_not(site: Site) -> None:
    async with site.edge(limits=QUICK, caller_networks=["192.0.2.0/24"]) as edge:
        response = await answer(site, edge)
        assert (response.status, response.header(b"penstock-error")) == (403, b"caller_forbidden")
        assert b"address" in response.body
    async with site.edge("edge-2", limits=QUICK, caller_networks=["127.0.0.0/8"]) as edge:
        assert (await answer(site, edge)).status == 502  # only the agent is missing


@pytest.mark.parametrize(("source", "status"), [("192.0.2.7", 502), ("198.51.100.7", 403)])
async def test_behind_a_balancer_it_is_the_callers_own_address_that_counts(site: Site, source: str, status: int) -> None:
    networks = {"caller_networks": ["192.0.2.0/24"], "balancer_networks": ["127.0.0.1"]}
    async with site.edge(limits=QUICK, **networks) as edge, asyncio.timeout(10):
        address = edge.callers_address
        transport = await dial_tcp(address.host, address.port)
        transport.write(tcp(source, 40_000))
        context = contexts.caller_outer(site.edge_ca.certificate_pem, site.caller)
        tls = await handshake(transport, context=context, server_hostname=edge_server_name("edge-1"))
        response = await request_upgrade(tls, host=f"echo.{tunnel().domain}", timeout=5.0)
        assert response.status == status
        tls.abort()


async def test_without_its_header_a_balancer_is_let_go_and_a_header_from_anybody_else_too(site: Site) -> None:
    async with site.edge(limits=QUICK, balancer_networks=["127.0.0.1"]) as edge:
        with pytest.raises((ConnectionError, ssl.SSLError, Exception)):
            await site.dial(edge)
    async with site.edge("edge-2", limits=QUICK, balancer_networks=["192.0.2.1"]) as edge:
        transport = await dial_tcp(edge.callers_address.host, edge.callers_address.port)
        pipe = ByteStream.over(transport)
        await pipe.write(tcp("192.0.2.7", 40_000))
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while await pipe.read(1000):
                    pass
        await pipe.aclose()
        (await site.dial(edge)).abort()


# --- who dawdles ------------------------------------------------------------------------------------------------------

LORIS = {"head_seconds": 0.3, "registration_seconds": 0.3, "stop_seconds": 0.1}


async def trickle(transport: asyncio.Transport, data: bytes) -> float:
    """Send `data` a byte at a time for as long as the other side stays; how long that was."""
    loop = asyncio.get_running_loop()
    pipe = ByteStream.over(transport)
    began = loop.time()

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            for byte in data:
                await pipe.write(bytes([byte]))
                await asyncio.sleep(0.05)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        sending = group.create_task(send())
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await pipe.read(1000):
                pass
        sending.cancel()
    await pipe.aclose()
    return loop.time() - began


@pytest.mark.parametrize("port", ["callers", "agents"])
async def test_who_trickles_a_handshake_is_let_go_in_time(site: Site, port: str) -> None:
    async with site.edge(limits=LORIS) as edge:
        address = edge.callers_address if port == "callers" else edge.agents_address
        transport = await dial_tcp(address.host, address.port)
        assert await trickle(transport, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)) < 5


async def test_who_trickles_an_upgrade_is_let_go_in_time_and_told_why(site: Site) -> None:
    async with site.edge(limits=LORIS) as edge:
        head = f"GET / HTTP/1.1\r\nHost: echo.{tunnel().domain}\r\nX-Slow: {'a' * 200}".encode()
        assert await trickle(await site.dial(edge), head) < 5


async def test_who_trickles_http2_or_a_registration_is_let_go_in_time(site: Site) -> None:
    async with site.edge(limits=LORIS) as edge:
        address = edge.agents_address
        context = contexts.agent_outer([site.edge_ca.certificate_pem])
        transport = await dial_tcp(address.host, address.port)
        tls = await handshake(transport, context=context, server_hostname="h2.cftunnel.com")
        settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 30
        assert await trickle(tls, settings) < 5


async def test_dawdlers_fill_no_edge_honest_callers_get_past_them(site: Site) -> None:
    limits = {"arriving": 3, "head_seconds": 60.0, "stop_seconds": 0.1}
    async with Origin(Echo) as origin, site.edge(limits=limits) as edge, site.agent(edge, url=origin.url, links=1):
        address = edge.callers_address
        silent = [await dial_tcp(address.host, address.port) for _ in range(3)]  # before TLS
        slow = [await site.dial(edge) for _ in range(3)]  # before a head
        for _ in range(3):
            assert (await answer(site, edge)).status == 101
        assert edge.metrics.displaced._value.get() >= 3
        for transport in (*silent, *slow):
            transport.abort()


# --- what is never cut ------------------------------------------------------------------------------------------------


async def test_an_idle_stream_outlives_every_time_limit_of_the_edge(site: Site) -> None:
    limits = {
        "head_seconds": 0.2,
        "registration_seconds": 0.2,
        "open_seconds": 0.2,
        "silent_seconds": 0.1,
        "ping_interval": 0.1,
        "ping_timeout": 2.0,
        "stop_seconds": 0.1,
        "feed_wait_seconds": 0.1,
    }
    async with Origin(Echo) as origin, site.edge(limits=limits) as edge, site.agent(edge, url=origin.url, links=1):
        stream, _ = await site.open(edge)
        await asyncio.sleep(1.0)  # five times the longest, ten pings
        await stream.write(b"still here")
        assert await stream.read(100) == b"still here"
        stream.transport.abort()


async def test_what_a_caller_does_not_read_takes_little_of_the_systems_buffers(site: Site) -> None:
    async with Origin(Source) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1):
        stream, _ = await site.open(edge)
        await until(lambda: edge.ingress.buffered > 0)  # the system takes no more
        (live,) = edge.ingress.streams._live
        unsent = int.from_bytes(
            fcntl.ioctl(live.caller.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4)), "little"
        )
        assert 0 < unsent < 512 * 1024, unsent
        stream.transport.abort()
