from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from tests.support import ca
from tests.support.ca import HOST
from tests.support.rawagent import CONNECTOR, accept, raw_agent
from tests.support.site import TUNNEL_ID, Echo, Origin, caller_record, until

from penstock.edge.presence import Presence
from penstock.edge.state import EdgeState
from penstock.errors import PenstockError, UnavailableError
from penstock.net.dial import dial_tls, dial_unix
from penstock.net.streams import ByteStream
from penstock.net.upgrade import UpgradeResponse, request_upgrade
from penstock.protocol import events
from penstock.schema.edges import EdgeRecord, LinkReport, LinkUsage, PresenceAnswer, PresenceReport
from penstock.telemetry.log import get_logger
from penstock.tls import certs, contexts
from penstock.tls.names import edge_server_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.site import Site

    from penstock.edge.server import Edge
    from penstock.tls.certs import KeyPair

pytestmark = pytest.mark.anyio

CONNECTOR_ID = str(UUID(bytes=CONNECTOR)).encode()
QUICK = {"feed_wait_seconds": 0.05, "stop_seconds": 0.1}


class Told:
    """A control plane that knows where tunnels are."""

    def __init__(self, *names: str) -> None:
        self.holders = {str(TUNNEL_ID): names}
        self.reports: list[PresenceReport] = []
        self.is_known = True
        self.failure: PenstockError | None = None

    async def report(self, report: PresenceReport) -> PresenceAnswer:
        if self.failure is not None:
            raise self.failure
        self.reports.append(report)
        return PresenceAnswer(is_known=self.is_known or report.links is not None, holders=self.holders)

    async def withdraw(self, incarnation: str) -> None:
        pass


def pair_of(site: Site, name: str) -> KeyPair:
    identity = EdgeState(site.folder / name).load_identity()
    assert identity is not None
    return certs.KeyPair(identity.certificate_pem, identity.key_pem)


def record(site: Site, edge: Edge) -> EdgeRecord:
    name, address = edge.sessions.name, edge.callers_address
    serial = certs.serial_hex(certs.load_certificate(pair_of(site, name).certificate_pem))
    return EdgeRecord(name=name, serials=(serial,), host=address.host, port=address.port, server_name=edge_server_name(name))


async def tell(site: Site, edge: Edge, *names: str) -> None:
    """Control says that these edges hold the tunnel."""
    told = Told(*names)
    if (hears := site.controls.get(edge.sessions.name)) is not None:
        hears.holders = told.holders
    await edge._presence._report(told)


@contextlib.asynccontextmanager
async def cluster(site: Site, **settings: Any) -> AsyncIterator[tuple[Edge, Edge]]:
    """Two edges that know of each other; the first holds the tunnel, and the second was told so."""
    settings = {"limits": QUICK, **settings}
    async with site.edge("edge-1", **settings) as holder, site.edge("edge-2", **settings) as other:
        site.edges = (record(site, holder), record(site, other))
        site.publish(holder, other)
        await tell(site, other, "edge-1")
        yield holder, other


async def ask_as(pair: KeyPair, site: Site, edge: Edge, *headers: tuple[bytes, bytes]) -> UpgradeResponse:
    """Ask as whoever holds this certificate, an edge's for example."""
    address = edge.callers_address
    transport = await dial_tls(
        address.host,
        address.port,
        context=contexts.edge_peer(pair, site.edge_ca.certificate_pem),
        server_hostname=edge_server_name(edge.sessions.name),
        timeout=5.0,
    )
    site.dialled.append(transport)
    return await request_upgrade(transport, host=HOST, headers=headers, timeout=5.0)


def on_behalf(pair: KeyPair, hop: bytes = b"edge") -> tuple[tuple[bytes, bytes], ...]:
    der = certs.certificate_to_der(certs.load_certificate(pair.certificate_pem))
    return (b"penstock-hop", hop), (b"penstock-caller", base64.b64encode(der))


async def read(stream: ByteStream, size: int) -> bytes:
    data = b""
    async with asyncio.timeout(5):
        while len(data) < size and (more := await stream.read(size - len(data))):
            data += more
    return data


# --- passing on -------------------------------------------------------------------------------------------------------


async def test_a_head_that_cost_the_holders_link_is_tried_nowhere_else(site: Site) -> None:
    async with cluster(site) as (holder, other), raw_agent(site, holder) as one, raw_agent(site, holder) as two:
        await one.register()
        await two.register()
        asking = asyncio.gather(site.ask(other))
        await until(lambda: one.streams.qsize() + two.streams.qsize() == 1)
        (one if one.streams.qsize() else two).link.abort()
        ((response, _),) = await asking
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        assert response.header(b"penstock-link")
        assert holder.sessions.registered == 1


async def test_what_an_evicted_edge_passed_on_is_cut_and_what_came_directly_is_not(site: Site) -> None:
    async with Origin(Echo) as origin, cluster(site) as (holder, other), site.agent(holder, url=origin.url, links=1):
        passed, _ = await site.open(other)
        direct, _ = await site.open(holder)
        site.edges = (record(site, holder),)
        site.publish(holder)  # the other one, taken over, does not tell itself
        with pytest.raises((ConnectionError, ssl.SSLError)):
            assert await read(passed, 1) != b""
        await direct.write(b"still here")
        assert await read(direct, 10) == b"still here"


async def test_edges_that_say_nothing_take_no_longer_together_than_one_may(site: Site) -> None:
    limits = {**QUICK, "open_seconds": 0.4}
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(30):  # to start five edges, on a busy machine
        other = await stack.enter_async_context(site.edge("edge-9", limits=limits))
        silent = [await stack.enter_async_context(site.edge(f"edge-{n}", limits=QUICK)) for n in range(1, 5)]
        for edge in silent:  # each holds a link that never answers
            agent = await stack.enter_async_context(raw_agent(site, edge))
            await agent.register()
        site.edges = tuple(record(site, edge) for edge in (other, *silent))
        site.publish(other, *silent)
        await tell(site, other, *(edge.sessions.name for edge in silent))
        began = asyncio.get_running_loop().time()
        response, _ = await site.ask(other)
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        assert 0.4 <= asyncio.get_running_loop().time() - began < 1.6  # of four in turn


async def test_an_edge_without_the_tunnel_passes_the_stream_to_the_one_that_holds_it(site: Site) -> None:
    async with Origin(Echo) as origin, cluster(site) as (holder, other), site.agent(holder, url=origin.url, links=1) as agent:
        stream, response = await site.open(other)
        assert response.header(b"penstock-edge") == b"edge-1"
        assert response.header(b"penstock-replica") is not None
        await stream.write(b"x" * 100_000)
        assert await read(stream, 100_000) == b"x" * 100_000
        assert (holder.ingress.live, other.ingress.live) == (1, 1)
        await stream.aclose()
        await until(lambda: (holder.ingress.live, other.ingress.live) == (0, 0))
        direct, response = await site.open(holder)
        assert response.header(b"penstock-edge") is None
        await direct.aclose()
        assert agent.links == 1
    seen = {name for request in origin.requests for name, _ in request.headers}
    assert seen.isdisjoint({b"penstock-hop", b"penstock-caller"})  # between edges only


async def test_the_replica_asked_for_serves_from_another_edge_and_once_it_is_lost_one_that_is_here_does(site: Site) -> None:
    async with cluster(site) as (holder, other), raw_agent(site, holder) as asked, raw_agent(site, other) as near:
        await asked.register()
        await near.register(client_id=b"another-agent-16")
        asking = asyncio.gather(site.ask(other, headers=[(b"penstock-replica", CONNECTOR_ID)]))
        stream = await asked.streams.get()
        accept(stream)
        ((response, transport),) = await asking
        assert (response.header(b"penstock-replica"), response.header(b"penstock-edge")) == (CONNECTOR_ID, b"edge-1")
        assert not {name for name, _ in stream.headers} & {b"penstock-hop", b"penstock-hop-replica", b"penstock-replica"}
        transport.abort()

        asked.link.abort()
        await until(lambda: holder.sessions.registered == 0)
        asking = asyncio.gather(site.ask(other, headers=[(b"penstock-replica", CONNECTOR_ID)]))
        accept(await near.streams.get())
        ((response, transport),) = await asking
        assert response.header(b"penstock-replica") not in {None, CONNECTOR_ID}
        assert response.header(b"penstock-edge") is None
        transport.abort()


async def test_an_edge_asked_for_a_replica_by_another_edge_offers_no_other(site: Site) -> None:
    async with cluster(site) as (holder, _), raw_agent(site, holder) as agent:
        await agent.register()
        only = ((b"penstock-hop-replica", b"only"), (b"penstock-replica", b"somebody else"))
        response = await ask_as(pair_of(site, "edge-2"), site, holder, *on_behalf(site.caller), *only)
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        asking = asyncio.gather(site.ask(holder, headers=list(only)))  # a caller's own mark counts for nothing
        accept(await agent.streams.get())
        ((response, _),) = await asking
        assert response.status == 101


async def test_a_caller_revoked_at_either_edge_is_cut(site: Site) -> None:
    async with Origin(Echo) as origin, cluster(site) as (holder, other), site.agent(holder, url=origin.url, links=1):
        for edge in (holder, other):
            site.callers = (caller_record(site.caller),)
            site.publish(holder, other)
            stream, _ = await site.open(other)
            site.callers = ()
            site.publish(edge)
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(5):
                    assert await stream.read(1) == b""
            await until(lambda: (holder.ingress.live, other.ingress.live) == (0, 0))


async def test_a_dead_edge_is_skipped_at_once_and_left_alone_for_a_while(site: Site) -> None:
    async with Origin(Echo) as origin, cluster(site) as (holder, other), site.agent(holder, url=origin.url, links=1):
        dead = site.edges[0].model_copy(update={"name": "edge-9", "serials": ("09",), "port": 9})
        site.edges = (*site.edges, dead)
        site.publish(holder, other)
        await tell(site, other, "edge-1", "edge-9")
        for _ in range(6):
            async with asyncio.timeout(2):
                stream, _ = await site.open(other)
            await stream.aclose()


async def test_with_nobody_to_pass_it_to_the_answer_says_when_to_come_back(site: Site) -> None:
    async with cluster(site) as (_, other):
        response, _ = await site.ask(other)  # the first edge was said to hold it, and does not
        assert (response.status, response.header(b"penstock-error")) == (502, b"agent_unavailable")
        assert response.header(b"retry-after") == b"1"


async def test_a_stream_that_was_passed_on_is_never_passed_on_again(site: Site) -> None:
    async with cluster(site) as (holder, other):
        await tell(site, holder, "edge-2")  # each believes that the other holds it
        async with asyncio.timeout(5):
            response, _ = await site.ask(other)
        assert response.status == 502
        response = await ask_as(pair_of(site, "edge-1"), site, other, *on_behalf(site.caller))
        assert response.status == 502


# --- the target decides anew ------------------------------------------------------------------------------------------


async def test_the_target_decides_from_its_own_directory(site: Site) -> None:
    async with Origin(Echo) as origin, cluster(site) as (holder, other), site.agent(holder, url=origin.url, links=1):
        known, site.callers = site.callers, ()
        site.publish(holder)
        response, _ = await site.ask(other)
        assert (response.status, response.header(b"penstock-error")) == (403, b"caller_forbidden")
        site.callers = known
        site.tunnels = (site.tunnels[0].model_copy(update={"certificates": 0}),)
        site.publish(holder)
        assert (await ask_as(pair_of(site, "edge-2"), site, holder, *on_behalf(site.caller))).status == 403


@pytest.mark.parametrize("case", ["no certificate", "garbage", "self-made", "an edge's", "no hop", "a worker's hop"])
async def test_an_edge_speaks_for_callers_of_this_platform_only(site: Site, case: str) -> None:
    forged = ca.caller(ca.ca("caller-ca"))  # another CA of the same name
    async with Origin(Echo) as origin, cluster(site) as (holder, _), site.agent(holder, url=origin.url, links=1):
        site.callers = (*site.callers, caller_record(forged))
        site.publish(holder)
        hop, caller = on_behalf(site.caller)
        headers = {
            "no certificate": (hop,),
            "garbage": (hop, (b"penstock-caller", b"!!!")),
            "self-made": on_behalf(forged),
            "an edge's": on_behalf(pair_of(site, "edge-2")),
            "no hop": (caller,),
            "a worker's hop": on_behalf(site.caller, b"worker"),
        }[case]
        response = await ask_as(pair_of(site, "edge-2"), site, holder, *headers)
        assert (response.status, response.header(b"penstock-error")) == (403, b"caller_forbidden")
        assert (await ask_as(pair_of(site, "edge-2"), site, holder, *on_behalf(site.caller))).status == 101


async def test_an_edge_that_left_the_feed_speaks_for_nobody(site: Site) -> None:
    async with Origin(Echo) as origin, cluster(site) as (holder, other), site.agent(holder, url=origin.url, links=1):
        site.edges = site.edges[:1]
        site.publish(holder)
        response, _ = await site.ask(other)
        assert response.status in {403, 502}
        response = await ask_as(pair_of(site, "edge-2"), site, holder, *on_behalf(site.caller))
        assert (response.status, response.header(b"penstock-error")) == (403, b"caller_forbidden")


async def test_a_caller_cannot_speak_for_another_nor_mark_a_hop(site: Site) -> None:
    stranger = ca.caller(site.caller_ca, caller_id="clr_01Stranger")  # of our CA, not in the feed
    async with Origin(Echo) as origin, cluster(site) as (holder, other), site.agent(holder, url=origin.url, links=1):
        response, _ = await site.ask(holder, pair=stranger, headers=list(on_behalf(site.caller)))
        assert response.status == 403
        response, _ = await site.ask(other, headers=[(b"penstock-hop", b"worker")])
        assert response.status == 101  # its mark counts for nothing


# --- workers of one edge ----------------------------------------------------------------------------------------------


async def test_a_worker_hands_the_stream_to_the_one_that_holds_the_link(site: Site) -> None:
    async with Origin(Echo) as origin, workers(site) as (first, second), site.agent(first, url=origin.url, links=1):
        stream, response = await site.open(second)
        assert response.header(b"penstock-replica") is not None
        await stream.write(b"hello")
        assert await read(stream, 5) == b"hello"
        assert (first.ingress.live, second.ingress.live) == (1, 1)
        await stream.aclose()


async def test_the_replica_asked_for_serves_from_another_worker(site: Site) -> None:
    async with workers(site) as (first, second), raw_agent(site, first) as asked, raw_agent(site, second) as near:
        await asked.register()
        await near.register(client_id=b"another-agent-16")
        asking = asyncio.gather(site.ask(second, headers=[(b"penstock-replica", CONNECTOR_ID)]))
        accept(await asked.streams.get())
        ((response, _),) = await asking
        assert response.header(b"penstock-replica") == CONNECTOR_ID


async def test_a_worker_takes_streams_on_behalf_of_callers_only_and_hands_none_on(site: Site) -> None:
    async with workers(site) as (first, second):
        socket = first._config.worker_socket
        assert socket is not None
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        for headers, status in ((), 403), (on_behalf(site.caller, b"edge"), 403), (on_behalf(site.caller, b"worker"), 502):
            response = await request_upgrade(await dial_unix(socket), host=HOST, headers=headers, timeout=5.0)
            assert response.status == status
        async with asyncio.timeout(5):
            response, _ = await site.ask(second)
        assert response.status == 502
        await second.stop()
        with pytest.raises(UnavailableError):
            await dial_unix(second._config.state_dir / "workers" / "1.sock")


async def test_an_agent_gets_a_link_to_each_worker_although_the_kernel_deals_them_out_by_chance(site: Site) -> None:
    async with site.edge(limits=QUICK, workers=3, worker=0) as first:
        shared = {"limits": QUICK, "workers": 3, "agents_addr": str(first.agents_address)}
        async with (
            Origin(Echo) as origin,
            site.edge(**shared, worker=1) as second,
            site.edge(**shared, worker=2) as third,
            site.agent(first, url=origin.url, links=3, limits={"respread_interval": 0.2, "backoff_first": 0.1}),
        ):
            await until(lambda: min(edge.sessions.registered for edge in (first, second, third)) >= 1, seconds=20)


async def test_a_caller_that_listens_to_one_worker_hears_of_a_link_at_another(site: Site) -> None:
    async with Origin(Echo) as origin, workers(site) as (first, second):
        listening = ByteStream.over(await site.dial(second))
        async with site.agent(first, url=origin.url, links=1), asyncio.timeout(5):
            await listening.write(f"GET {events.PATH} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            head = b""
            while b"event: hello" not in head:
                head += await listening.read(65_536)
            stream, response = await site.open(second)
        async with asyncio.timeout(5):
            said = b""
            while (response.header(b"penstock-link") or b"?") not in said:
                said += await listening.read(65_536)
        assert b"event: unregistered" in said
        await stream.aclose()
        socket = second._config.worker_socket
        assert socket is not None
        garbage = ByteStream.over(await dial_unix(socket))
        await garbage.write(f"GET {events.PATH} HTTP/1.1\r\nHost: worker\r\npenstock-event: e30=\r\n\r\n".encode())
        assert (await read(garbage, 12)) == b"HTTP/1.1 400"
        garbage.abort()


@contextlib.asynccontextmanager
async def workers(site: Site) -> AsyncIterator[tuple[Edge, Edge]]:
    """Two workers of one edge, each on ports of its own so that a test chooses whom it asks."""
    async with site.edge(limits=QUICK, workers=2, worker=0) as first, site.edge(limits=QUICK, workers=2, worker=1) as second:
        yield first, second


# --- presence ---------------------------------------------------------------------------------------------------------


async def test_links_are_told_once_and_again_when_they_change() -> None:
    def link(number: int) -> LinkReport:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return LinkReport(id=str(number), wire_id=str(TUNNEL_ID), connector_id="c", version="v", since=at)

    told, links = Told("edge-7"), [link(1)]
    presence = Presence(lambda: links, get_logger("edge"))
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(presence.keep(told))
        await until(lambda: len(told.reports) == 1)
        assert told.reports[0].links == (link(1),)
        assert presence.holders(TUNNEL_ID) == ("edge-7",)
        presence.change()  # said again, but nothing is new
        await until(lambda: len(told.reports) == 2)
        assert told.reports[1].links is None
        links.append(link(2))
        presence.change()
        await until(lambda: len(told.reports) == 3)
        assert told.reports[2].links == (link(1), link(2))
        told.is_known = False  # the lease ran out meanwhile
        presence.change()
        await until(lambda: len(told.reports) >= 5)
        assert (told.reports[3].links, told.reports[4].links) == (None, (link(1), link(2)))
        presence.drain()
        await until(lambda: told.reports[-1].is_draining)
        keeping.cancel()
    assert {report.incarnation for report in told.reports} == {presence.incarnation}


async def test_what_links_carry_is_told_with_them_and_then_only_what_changed_and_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = {"1": 0, "2": 0}

    def usage() -> list[LinkUsage]:
        return [LinkUsage(id=link, streams=0, to_agent_bytes=moved, from_agent_bytes=0) for link, moved in used.items()]

    told = Told()
    links = [LinkReport(id=name, wire_id="w", connector_id="c", version="v", since=datetime.now(UTC)) for name in used]
    told_at = Presence(lambda: links, get_logger("edge"), usage=usage)
    await told_at._report(told)
    used["2"] = 5
    await told_at._report(told)
    monkeypatch.setattr("penstock.edge.presence._USAGE_EVERY", 0.0)
    await told_at._report(told)
    assert [[link.id for link in report.usage] for report in told.reports] == [["1", "2"], [], ["2"]]


async def test_a_report_that_failed_is_made_whole_the_next_time() -> None:
    told, links = Told(), [LinkReport(id="1", wire_id="w", connector_id="c", version="v", since=datetime.now(UTC))]
    presence = Presence(lambda: links, get_logger("edge"))
    await presence._report(told)
    told.failure = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await presence._report(told)
    told.failure = None
    await presence._report(told)
    assert told.reports[-1].links == tuple(links)
