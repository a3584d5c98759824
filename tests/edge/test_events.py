from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import structlog
from tests.edge.test_peers import cluster, pair_of
from tests.support import ca
from tests.support.ca import HOST
from tests.support.site import Echo, Origin, caller_record, until

from penstock.edge.server import Edge
from penstock.net.streams import ByteStream
from penstock.protocol.events import DRAINING, HELLO, PATH, REVOKED, UNREGISTERED, Event, EventReader

if TYPE_CHECKING:
    from tests.support.site import Site

    from penstock.tls.certs import KeyPair

pytestmark = pytest.mark.anyio


class Listening:
    """A caller that listens to an edge's events."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._reader = EventReader()
        self._events: list[Event] = []

    async def next(self) -> Event:
        async with asyncio.timeout(5):
            while not self._events:
                data = await self.stream.read(65_536)
                assert data, "the event stream ended"
                self._events += self._reader.receive_data(data)
        return self._events.pop(0)

    async def rest(self) -> list[Event]:
        """What comes until the end."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                while data := await self.stream.read(65_536):
                    self._events += self._reader.receive_data(data)
        return self._events


async def ask(site: Site, edge: Edge, *, pair: KeyPair | None = None, path: str = PATH) -> tuple[bytes, Listening]:
    """The answer's head, and what follows it."""
    stream = ByteStream.over(await site.dial(edge, pair=pair))
    await stream.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    head = b""
    async with asyncio.timeout(5):
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.read(1)
    return head, Listening(stream)


async def listen(site: Site, edge: Edge, *, pair: KeyPair | None = None) -> Listening:
    head, listening = await ask(site, edge, pair=pair)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"text/event-stream" in head
    assert await listening.next() == Event(HELLO)
    return listening


async def test_an_edge_that_stops_says_so_lets_streams_finish_and_cuts_and_counts_those_that_do_not(site: Site) -> None:
    async with Origin(Echo) as origin:
        edge = Edge(site.edge_config(limits={"stop_seconds": 0.5, "handover_seconds": 0.1}))
        await edge.start()
        async with site.agent(edge, url=origin.url, links=1):
            listening = await listen(site, edge)
            finishing, _ = await site.open(edge)
            deaf, _ = await site.open(edge)
            with structlog.testing.capture_logs() as logs:
                stopping = asyncio.gather(edge.stop())
                assert await listening.next() == Event(DRAINING)
                await finishing.write(b"the last call")
                assert await finishing.read(100) == b"the last call"
                await finishing.aclose()
                with pytest.raises(ConnectionError):
                    await asyncio.wait_for(deaf.read(1), 5)
                assert {event.kind for event in await listening.rest()} <= {UNREGISTERED}
                await stopping
            records = [log for log in logs if log["event"] == "access"]
        await site.hang_up()
    assert [record["reason"] for record in records] == ["closed", "drained"]
    assert edge.metrics.cut.labels("drained")._value.get() == 1


async def test_an_access_record_says_who_called_what_by_which_agent_how_much_and_how_it_ended(site: Site) -> None:
    async with Origin(Echo) as origin, cluster(site) as (holder, other), site.agent(holder, url=origin.url, links=1) as agent:
        with structlog.testing.capture_logs() as logs:
            stream, response = await site.open(other)
            await stream.write(b"12345")
            assert await stream.read(100) == b"12345"
            await stream.aclose()
            await until(lambda: sum(log["event"] == "access" for log in logs) == 2)
            assert agent.links == 1
    records = {"passed_to" in log: log for log in logs if log["event"] == "access"}
    link, replica = ((response.header(name) or b"").decode() for name in (b"penstock-link", b"penstock-replica"))
    for record in records.values():
        assert {name: record[name] for name in ("caller", "tunnel", "route", "link", "replica", "reason")} == {
            "caller": caller_record(site.caller).caller_id,
            "tunnel": "tnl_01TestTunnel",
            "route": "echo",
            "link": link,
            "replica": replica,
            "reason": "closed",
        }
        assert (record["to_agent_bytes"], record["to_caller_bytes"]) == (5, 5)
        assert 0 <= record["seconds"] < 5
    assert (records[True]["passed_to"], records[False]["passed_by"]) == ("edge-1", "edge")


async def test_callers_on_a_link_that_its_agent_unregisters_are_told_which_and_others_are_not(site: Site) -> None:
    bystander = ca.caller(site.caller_ca, caller_id="clr_01Bystander")
    site.callers = (*site.callers, caller_record(bystander))
    async with Origin(Echo) as origin, site.edge() as edge:
        async with site.agent(edge, url=origin.url, links=1):
            concerned, other = await listen(site, edge), await listen(site, edge, pair=bystander)
            stream, response = await site.open(edge)
            link = (response.header(b"penstock-link") or b"").decode()
        assert await concerned.next() == Event(UNREGISTERED, link)
        site.callers = site.callers[:1]
        site.publish(edge)
        assert await other.next() == Event(REVOKED)  # the first it hears
        assert await other.rest() == []
        await stream.aclose()


async def test_only_callers_that_the_feed_knows_are_told_anything(site: Site) -> None:
    stranger = ca.caller(site.caller_ca, caller_id="clr_01Stranger")
    async with cluster(site) as (edge, _):
        for pair in (stranger, pair_of(site, "edge-2")):
            head, _ = await ask(site, edge, pair=pair)
            assert head.startswith(b"HTTP/1.1 403 ")
        head, _ = await ask(site, edge, path="/penstock/v1/edge/events/more")
        assert head.startswith(b"HTTP/1.1 426 ")
        assert edge.ingress.events.open == 0


async def test_a_certificate_has_two_event_streams_and_who_speaks_on_one_loses_it(site: Site) -> None:
    async with site.edge() as edge:
        first, second, third = [await listen(site, edge) for _ in range(3)]
        assert await first.rest() == []
        assert edge.ingress.events.open == 2
        await second.stream.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await second.rest() == []
        await third.stream.aclose()
        await until(lambda: edge.ingress.events.open == 0)
