"""An agent and an edge over loopback, with an origin in the proxy's place, and what goes wrong between them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.support import ca
from tests.support.ca import HOST
from tests.support.site import TUNNEL_ID, Echo, Origin, Source, Stalled, tunnel, until

from penstock.agent.origin import NO_INGRESS
from penstock.agent.server import Agent
from penstock.edge.server import Edge
from penstock.errors import ConfigError
from penstock.net.link import LinkStream
from penstock.net.upgrade import UpgradeRequest
from penstock.protocol.http2.frames import FrameType, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.site import Site

    from penstock.edge.session import AgentSession

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
# Socket buffers of the kernel on loopback hold megabytes; what the processes hold is what is measured here.
BOUND = 4 * MIB
AT_ONCE = 0.1  # seconds from an abort to the other end
ATTEMPTS = 3  # the best of them counts: the link is measured, not what else the machine does


def sessions(edge: Edge) -> list[AgentSession]:
    return list(edge.sessions.links_of(TUNNEL_ID))


def reset(transport: asyncio.Transport) -> None:
    """What a killed process with unread data does."""
    below = transport.get_extra_info("socket")
    below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


# --- registering ------------------------------------------------------------------------------------------------------


async def test_four_links_are_registered_and_ready_says_so(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, metrics="127.0.0.1:0") as agent:
        assert len(sessions(edge)) == 4
        assert {session.connector_id for session in sessions(edge)} == {str(agent.connector_id)}
        address = agent.metrics_address
        assert address is not None
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200 ")
    ready = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert ready == {"status": 200, "readyConnections": 4, "connectorId": str(agent.connector_id)}


async def test_links_are_spread_over_the_edges_of_the_token(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge() as one,
        site.edge("edge-2") as two,
        site.agent(one, two, url=origin.url),
    ):
        assert (len(sessions(one)), len(sessions(two))) == (2, 2)


async def test_a_refused_token_is_tried_once_by_one_link_and_then_slowly(site: Site) -> None:
    async with site.edge(limits={"feed_wait_seconds": 0.05, "stop_seconds": 0.1}) as edge:
        wrong = site.token(str(edge.agents_address), secret=b"wrong")
        agent = Agent(site.agent_config(edge, url="", token=wrong))
        await agent.start()
        refusals = edge.metrics.registrations.labels("refused")
        await until(lambda: _value(refusals) == 1)
        with pytest.raises(TimeoutError):
            await until(lambda: _value(refusals) > 1, seconds=0.5)
        assert not agent.is_ready
        await agent.stop()


async def test_an_edge_of_another_ca_is_not_given_the_secret(site: Site) -> None:
    async with site.edge() as edge:
        stranger = ca.ca("edge-ca")
        trusted, site.edge_ca = site.edge_ca, stranger
        agent = Agent(site.agent_config(edge, url=""))
        site.edge_ca = trusted
        await agent.start()
        tries = agent.metrics.tries.labels("unreachable")
        await until(lambda: _value(tries) >= 2)
        assert edge.sessions.registered == 0
        await agent.stop()


@pytest.mark.parametrize("token", [" ", "!", "e30="])
async def test_a_token_that_is_none_ends_the_start(token: str, site: Site) -> None:
    with pytest.raises(ConfigError, match="the tunnel token"):
        await Agent(site.agent_config(url="", token=token)).start()


async def test_a_token_without_edges_needs_the_setting(site: Site) -> None:
    with pytest.raises(ConfigError, match="names no edge"):
        await Agent(site.agent_config(url="")).start()


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_goes_through_edge_and_agent_to_the_origin_and_back(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1) as agent:
        stream, response = await site.open(edge, headers=[(b"sec-websocket-protocol", b"mcp"), (b"x-kept", b"1")])
        assert response.header(b"penstock-replica") == str(agent.connector_id).encode()
        asked = origin.requests[0]
        assert (asked.host, asked.raw_host) == (HOST, HOST.encode())
        assert asked.header(b"x-kept") == b"1"
        assert [name for name, _ in asked.headers if name.startswith(b"cf-")] == []
        async with asyncio.timeout(5):
            await stream.write(b"hello")
            assert await stream.read(100) == b"hello"
            await stream.aclose()
            await origin.protocols[0].gone
        await until(lambda: edge.ingress.live == 0)


async def test_what_comes_right_behind_the_heads_is_not_lost(site: Site) -> None:
    class Greeter(Echo):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"welcome ")

    async with Origin(Greeter) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1):
        stream, _ = await site.open(edge)
        await stream.write(b"back")
        async with asyncio.timeout(5):
            got = b""
            while got != b"welcome back":
                got += await stream.read(100)
        await stream.aclose()


async def test_an_origin_that_ends_delivers_all_it_sent_and_then_the_caller_is_closed(site: Site) -> None:
    async with Origin(Source) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1), asyncio.timeout(20):
        stream, _ = await site.open(edge)
        got = 0
        while data := await stream.read(MIB):
            got += len(data)
        assert got == Source.size  # and the read ended cleanly


async def test_a_caller_that_ends_delivers_all_it_sent_and_then_the_origin_is_closed(site: Site) -> None:
    class Sink(Echo):
        def data_received(self, data: bytes) -> None:
            self.received += len(data)

    async with Origin(Sink) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1), asyncio.timeout(20):
        stream, _ = await site.open(edge)
        for _ in range(50):
            await stream.write(bytes(100_000))
        await stream.aclose()
        assert await origin.protocols[0].gone is None
        assert origin.protocols[0].received == 5_000_000


async def test_a_hundred_megabytes_through_a_slow_reader_stay_bounded_in_edge_and_agent(site: Site) -> None:
    class Large(Source):
        size = 100 * MIB

    async with (
        Origin(Large) as origin,
        site.edge() as edge,
        site.agent(edge, url=origin.url, links=1) as agent,
        asyncio.timeout(50),
    ):
        stream, _ = await site.open(edge)
        held: list[int] = []
        got = 0
        while data := await stream.read(65_536):
            got += len(data)
            if got // MIB != (got - len(data)) // MIB:  # once a megabyte the reader does something else
                held.append(max(agent.buffered, edge.buffered))
                await asyncio.sleep(0.01)
        assert got == Large.size
        assert max(held) < BOUND


async def test_one_stalled_caller_holds_up_no_other_stream_of_the_link(site: Site) -> None:
    class Big(Source):
        size = 30 * MIB

    async with Origin(Big) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1) as agent:
        stalled, _ = await site.open(edge)
        stalled.transport.pause_reading()
        await _at_rest(lambda: origin.protocols[0].left)
        assert origin.protocols[0].left > 0
        assert max(agent.buffered, edge.buffered) < BOUND
        other, _ = await site.open(edge)
        got = 0
        async with asyncio.timeout(20):
            while data := await other.read(MIB):
                got += len(data)
        assert got == Big.size
        stalled.transport.abort()


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_an_abort_of_the_caller_reaches_the_origin_at_once(site: Site) -> None:
    took: list[float] = []
    for _ in range(ATTEMPTS):
        async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1):
            stream, _ = await site.open(edge)
            await stream.write(b"x")
            assert await stream.read(1) == b"x"
            took.append(await _seconds_until_gone(stream.transport, origin))
    assert min(took) < AT_ONCE, took


async def test_an_abort_of_the_caller_reaches_the_origin_at_once_even_while_its_upload_is_stalled(site: Site) -> None:
    took: list[float] = []
    for _ in range(ATTEMPTS):
        async with Origin(Stalled) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1):
            stream, _ = await site.open(edge)
            stream.transport.write(bytes(40 * MIB))
            await _at_rest(stream.transport.get_write_buffer_size)
            assert stream.transport.get_write_buffer_size() > 0
            took.append(await _seconds_until_gone(stream.transport, origin))
    assert min(took) < AT_ONCE, took


async def test_an_abort_of_the_caller_reaches_the_origin_at_once_even_while_its_download_is_stalled(site: Site) -> None:
    class Endless(Source):
        size = 1 << 40

    took: list[float] = []
    for _ in range(ATTEMPTS):
        async with Origin(Endless) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1):
            stream, _ = await site.open(edge)
            stream.transport.pause_reading()
            await _at_rest(lambda: origin.protocols[0].left)
            took.append(await _seconds_until_gone(stream.transport, origin))
    assert min(took) < AT_ONCE, took


async def test_an_origin_that_is_cut_is_a_loss_for_the_caller_and_no_clean_end(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1), asyncio.timeout(10):
        stream, _ = await site.open(edge)
        reset(origin.protocols[0].transport)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await stream.read(1)


async def test_a_link_cut_in_the_middle_loses_its_streams_on_both_sides_and_comes_back(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1), asyncio.timeout(20):
        stream, _ = await site.open(edge)
        await stream.write(b"x")
        assert await stream.read(1) == b"x"
        sessions(edge)[0].link.abort()
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await stream.read(1)
        assert isinstance(await origin.protocols[0].gone, Exception)
        await until(lambda: len(sessions(edge)) == 1)
        again, _ = await site.open(edge)
        await again.write(b"back")
        assert await again.read(100) == b"back"
        await again.aclose()


async def test_one_link_that_falls_costs_the_streams_of_the_others_nothing(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url), asyncio.timeout(20):
        streams = [(await site.open(edge))[0] for _ in range(4)]  # the least loaded link takes each
        sessions(edge)[0].link.abort()
        kept = 0
        for stream in streams:
            try:
                await stream.write(b"x")
                kept += await stream.read(1) == b"x"
            except (ConnectionError, ssl.SSLError):
                pass
        assert kept == 3
        for stream in streams:
            stream.transport.abort()


async def test_running_out_of_descriptors_costs_those_who_come_then_and_nobody_else(site: Site) -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1), asyncio.timeout(30):
        kept, _ = await site.open(edge)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # A stream takes four here: both ends of the caller's connection and of the origin's.
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 6, hard))
        try:
            asked = await asyncio.gather(*(asyncio.wait_for(site.ask(edge), 1.5) for _ in range(5)), return_exceptions=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert any(isinstance(one, Exception) or one[0].status != 101 for one in asked)
        await kept.write(b"still here")
        assert await kept.read(100) == b"still here"
        stream, _ = await site.open(edge)
        await stream.write(b"and again")
        assert await stream.read(100) == b"and again"
        for one in (kept, stream):
            await one.aclose()


async def test_streams_that_are_over_leave_nothing_for_the_collector_to_find(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1):
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                stream, _ = await site.open(edge)
                await stream.write(b"x")
                assert await stream.read(1) == b"x"
                await stream.aclose()
            await until(lambda: edge.ingress.live == 0 and edge.sessions.load == 1)
            del stream
            origin.requests.clear()
            origin.protocols.clear()
            await until(lambda: _alive(LinkStream) == 2)  # the control stream's two ends
            await until(lambda: _alive(UpgradeRequest) == 0)
        finally:
            gc.enable()


async def test_after_an_edges_restart_all_links_are_back(site: Site) -> None:
    config = site.edge_config(limits={"stop_seconds": 0.1})
    edge = Edge(config)
    await edge.start()
    async with Origin(Echo) as origin, site.agent(edge, url=origin.url) as agent:
        address = edge.agents_address
        await edge.stop()
        await until(lambda: agent.links == 0)
        restarted = Edge(site.edge_config(agents_addr=str(address), limits={"stop_seconds": 0.1}))
        await restarted.start()
        await until(lambda: agent.links == 4, seconds=10)
        stream, _ = await site.open(restarted)
        await stream.write(b"healed")
        assert await stream.read(100) == b"healed"
        await stream.aclose()
        await site.hang_up()
    await restarted.stop()


async def test_an_edge_that_is_gone_leaves_the_agent_on_the_others(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge("edge-2") as staying:
        going = Edge(site.edge_config("edge-1", limits={"stop_seconds": 0.1}))
        await going.start()
        async with site.agent(going, staying, url=origin.url) as agent:
            await going.stop()
            await until(lambda: agent.links == 4 and len(sessions(staying)) == 4, seconds=10)


# --- the local side ---------------------------------------------------------------------------------------------------


async def test_a_limit_of_open_files_is_a_limit_of_streams(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.agent.files.raise_descriptor_limit", lambda _: 67)
    with capture_logs() as lines:
        async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url, links=1):
            streams = [(await site.open(edge))[0] for _ in range(2)]  # and the control stream
            response, _ = await site.ask(edge)
            assert (response.status, response.header(b"penstock-error")) == (429, b"rate_limited")
            for stream in streams:
                await stream.aclose()
    (said,) = [line for line in lines if line["event"] == "streams limited by open files" and line["role"] == "agent"]
    assert (said["streams_a_link"], said["files"]) == (3, 67)


async def test_links_beyond_the_usual_are_held_only_where_files_are_left_for_their_streams(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.agent.files.raise_descriptor_limit", lambda _: 64 + 60)
    limits = {"streams_a_link": 10, "respread_interval": 0.05}
    async with site.edge(workers=16, worker=0) as edge, site.agent(edge, url="http://127.0.0.1:9", limits=limits) as agent:
        await until(lambda: agent.links == 6)
        await asyncio.sleep(0.3)  # six times the interval at which more would be made
        assert agent.links == 6


async def test_nothing_on_the_local_target_is_said_without_its_address(site: Site) -> None:
    async with site.edge() as edge, site.agent(edge, url="http://127.0.0.1:9", links=1):
        response, _ = await site.ask(edge)
    assert (response.status, response.header(b"penstock-error")) == (502, b"proxy_unreachable")
    assert b"127.0.0.1" not in response.body


async def test_the_end_of_a_link_is_logged_with_its_reason_on_both_sides(site: Site) -> None:
    with capture_logs() as lines:
        async with site.edge() as edge, site.agent(edge, url="http://127.0.0.1:9", links=1) as agent:
            (session,) = edge.sessions.links_of(TUNNEL_ID)
            lower = session.link._lower
            assert lower is not None
            lower.write(frame(FrameType.PING, 0, 1, bytes(8)))
            await until(lambda: not session.is_open and agent.links == 0)
            await until(lambda: sum(line["event"] == "Unregistered tunnel connection" for line in lines) == 2)
    said = {line["reason"] for line in lines if line["event"] == "Unregistered tunnel connection"}
    assert {"PING is on the wrong kind of stream"} < said
    assert any(reason.startswith("the peer ended the link: PROTOCOL_ERROR") for reason in said)


async def test_without_a_local_target_the_published_text_is_answered(site: Site) -> None:
    with capture_logs() as lines:
        async with site.edge() as edge, site.agent(edge, url="", links=1):
            for _ in range(2):
                response, _ = await site.ask(edge)
    assert sum(line["event"] == NO_INGRESS for line in lines) == 1  # what monitoring looks for, and no storm of it
    assert (response.status, response.header(b"penstock-error")) == (503, b"no_ingress")
    assert response.body.startswith(b"No ingress rules were defined")


async def test_a_target_that_takes_no_upgrade_is_quoted(site: Site) -> None:
    async def deny(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # whoever only looks whether somebody listens
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\nX-Said: by the target\r\n\r\nno way")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(deny, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, site.edge() as edge, site.agent(edge, url=f"http://127.0.0.1:{port}", links=1):
        response, _ = await site.ask(edge)
    assert (response.status, response.body, response.header(b"x-said")) == (403, b"no way", b"by the target")


async def test_a_target_that_never_answers_is_given_up(site: Site) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    limits = {"origin_seconds": 0.2, "backoff_first": 0.1}
    async with server, site.edge() as edge, site.agent(edge, url=f"http://127.0.0.1:{port}", links=1, limits=limits):
        response, _ = await site.ask(edge)
        assert (response.status, response.header(b"penstock-error")) == (502, b"proxy_unreachable")


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_stop_lets_streams_finish_takes_nothing_new_and_then_ends(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, asyncio.timeout(20):
        agent = Agent(site.agent_config(edge, url=origin.url, grace_period=10.0))
        await agent.start()
        await until(lambda: agent.links == 4)
        stream, _ = await site.open(edge)
        stopping = asyncio.gather(agent.stop())
        await until(lambda: not sessions(edge))
        refused, _ = await site.ask(edge)
        assert refused.status == 502
        await stream.write(b"the last call")
        assert await stream.read(100) == b"the last call"
        assert not stopping.done()
        await stream.aclose()
        await stopping  # at once, not at the end of the grace period
        assert agent.links == 0


async def test_a_stop_cuts_what_is_left_at_the_end_of_the_grace_period(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, asyncio.timeout(10):
        agent = Agent(site.agent_config(edge, url=origin.url, grace_period=0.2))
        await agent.start()
        await until(lambda: agent.links == 4)
        stream, _ = await site.open(edge)
        await agent.stop()
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await stream.read(1)


async def test_an_agent_that_stops_tries_no_more_links_and_complains_of_none(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge(limits={"links": 1, "feed_wait_seconds": 0.05, "stop_seconds": 0.1}) as edge:
        limits = {"backoff_first": 0.05, "backoff_most": 0.1}
        agent = Agent(site.agent_config(edge, url=origin.url, ha_connections=2, grace_period=0.5, limits=limits))
        await agent.start()
        async with asyncio.timeout(5):
            await agent.until_ready()
        with capture_logs() as logs:
            await until(lambda: any("retry_in" in line for line in logs))  # the edge has no room for the second
        await site.open(edge)  # keeps the first for the grace period
        with capture_logs() as logs:
            await agent.stop()
        assert "streams cut at the end of the grace period" in [line["event"] for line in logs]
        assert not [line for line in logs if "retry_in" in line]


async def test_an_agent_whose_tunnel_is_archived_loses_its_links_and_keeps_asking_slowly(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge(limits={"feed_wait_seconds": 0.05, "stop_seconds": 0.1}) as edge,
        site.agent(edge, url=origin.url, limits={"backoff_first": 0.1, "refused_wait": 0.2}) as agent,
    ):
        site.tunnels = ()
        site.publish(edge)
        await until(lambda: agent.links == 0)
        site.tunnels = (tunnel(),)
        site.publish(edge)
        await until(lambda: agent.links == 4)


async def _at_rest(measure: Callable[[], int]) -> None:
    """Returns when nothing moves any more."""
    before = -1
    while before != (before := measure()):
        await asyncio.sleep(0.1)


async def _seconds_until_gone(transport: asyncio.Transport, origin: Origin) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    reset(transport)
    async with asyncio.timeout(5):
        await origin.protocols[0].gone
    return loop.time() - began


def _alive(kind: type[object]) -> int:
    return sum(type(one) is kind for one in gc.get_objects())


def _value(counter: Any) -> float:
    value: float = counter._value.get()
    return value
