"""What breaks between agent and edge, and how soon links are back: every wait here is for a state, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.support import ca
from tests.support.forwarder import Forwarder
from tests.support.httpproxy import HttpProxy
from tests.support.site import SECRET, TUNNEL_ID, Echo, Origin, tunnel, until

from penstock.agent.config import AgentLimits
from penstock.agent.reach import Reach
from penstock.agent.server import Agent
from penstock.config.types import HostPort
from penstock.edge.config import EdgeLimits
from penstock.edge.server import Edge
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.site import Site


pytestmark = pytest.mark.anyio

QUICK: dict[str, Any] = {
    "backoff_first": 0.1,
    "backoff_most": 0.3,
    "dial_seconds": 0.5,
    "ping_interval": 0.2,
    "ping_timeout": 0.2,
    "avoid_seconds": 0.5,
    "respread_interval": 0.5,
}
EDGE: dict[str, Any] = {"limits": {"feed_wait_seconds": 0.05, "stop_seconds": 1.0, "ping_interval": 0.2, "ping_timeout": 0.2}}


@contextlib.asynccontextmanager
async def agent_at(site: Site, *addresses: HostPort, url: str, links: int = 4, **settings: Any) -> AsyncIterator[Agent]:
    """An agent whose token names these addresses."""
    token = site.token(*map(str, addresses))
    values = {"token": token, "ha_connections": links, "limits": QUICK, **settings}
    agent = Agent(site.agent_config(url=url, **values))
    await agent.start()
    try:
        await until(lambda: agent.links == links)
        yield agent
    finally:
        async with asyncio.timeout(10):
            await agent.stop()


def links_of(edge: Edge) -> int:
    return len(list(edge.sessions.links_of(TUNNEL_ID)))


async def echoes(site: Site, edge: Edge, text: bytes = b"hello") -> None:
    stream, _ = await site.open(edge)
    async with asyncio.timeout(5):
        await stream.write(text)
        assert await stream.read(100) == text
        await stream.aclose()


# --- networks ---------------------------------------------------------------------------------------------------------


async def test_links_that_are_cut_are_back_at_once(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge(**EDGE) as edge,
        Forwarder(edge.agents_address) as between,
        agent_at(site, between.address, url=origin.url) as agent,
    ):
        between.cut()
        await until(lambda: agent.links < 4)
        await until(lambda: agent.links == 4 and links_of(edge) == 4, seconds=3)
        await echoes(site, edge)


async def test_links_whose_bytes_change_places_are_left_and_nothing_of_it_reaches_a_stream(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge(**EDGE) as edge,
        Forwarder(edge.agents_address) as between,
        agent_at(site, between.address, url=origin.url) as agent,
    ):
        stream, _ = await site.open(edge)
        await stream.write(b"before")
        assert await stream.read(100) == b"before"
        between.reorder()
        await stream.write(b"behind")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await stream.read(100) == b""
        await until(lambda: between.accepted >= 8 and agent.links == 4 and links_of(edge) == 4, seconds=5)
        await echoes(site, edge)


async def test_a_network_that_falls_silent_is_noticed_by_both_ends_and_left(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge(**EDGE) as dead,
        site.edge("edge-2", **EDGE) as alive,
        Forwarder(dead.agents_address) as between,
        agent_at(site, between.address, alive.agents_address, url=origin.url) as agent,
    ):
        assert (links_of(dead), links_of(alive)) == (2, 2)
        between.silence()
        await until(lambda: links_of(dead) == 0, seconds=5)
        await until(lambda: agent.links == 4 and links_of(alive) == 4, seconds=5)
        between.heal()
        await until(lambda: (links_of(dead), links_of(alive)) == (2, 2), seconds=10)


async def test_an_edge_that_answers_no_dial_holds_up_no_link_for_long(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge(**EDGE) as alive,
        Forwarder(alive.agents_address) as hole,
    ):
        hole.silence()
        async with agent_at(site, hole.address, alive.agents_address, url=origin.url):
            assert links_of(alive) == 4
            assert hole.accepted > 0


async def test_an_edge_whose_name_none_can_have_costs_no_link(site: Site) -> None:
    bad = HostPort("edge-2..example.com", 7844)
    async with Origin(Echo) as origin, site.edge(**EDGE) as alive:
        for _ in range(3):  # which of the two is asked first is chance
            async with agent_at(site, bad, alive.agents_address, url=origin.url):
                assert links_of(alive) == 4


@pytest.mark.parametrize("failing", [1, 3])
async def test_a_mistake_of_ours_in_a_dial_costs_a_try_and_neither_a_link_nor_its_move(
    site: Site, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    dial = Reach.dial
    dials = itertools.count()

    async def mistaken(self: Reach, edge: HostPort, timeout: float) -> asyncio.Transport:
        if next(dials) < failing:
            raise RuntimeError("a mistake")
        return await dial(self, edge, timeout)

    monkeypatch.setattr(Reach, "dial", mistaken)
    async with Origin(Echo) as origin, site.edge(**EDGE) as one, site.edge("edge-2", **EDGE) as two:
        with capture_logs() as lines:
            async with agent_at(site, one.agents_address, url=origin.url) as agent:
                dials = itertools.count()  # now it is links that move which fail
                site.agent_edges = (str(one.agents_address), str(two.agents_address))
                site.publish(one)
                await until(lambda: (links_of(one), links_of(two)) == (2, 2), seconds=10)
                assert agent.links == 4
        said = [line for line in lines if line["event"] == "link failed"]
        assert len(said) == failing * 2
        assert all(isinstance(line["exc_info"], RuntimeError) for line in said)


async def test_a_mistake_of_ours_between_two_tries_costs_a_wait_and_no_link(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(_: object) -> object:
        raise RuntimeError("a mistake")

    limits = {**QUICK, "refused_wait": 0.1}
    site.tunnels = (tunnel(verifiers=("0" * 64,)),)
    async with Origin(Echo) as origin, site.edge(**EDGE) as edge:
        file = site.folder / "token"
        file.write_text(site.token(str(edge.agents_address)).reveal())
        agent = Agent(site.agent_config(url=origin.url, token=None, token_file=file, limits=limits))
        with capture_logs() as lines:
            await agent.start()
            monkeypatch.setattr("penstock.agent.server.read_token", mistaken)  # which is asked for again at a refusal
            await until(lambda: sum(line["event"] == "link failed" for line in lines) >= 4)
            site.tunnels = (tunnel(),)
            site.publish(edge)
            await until(lambda: agent.links == 4)
        await agent.stop()


def test_with_the_defaults_a_dead_peer_is_found_within_twenty_seconds() -> None:
    tick = 2.5
    for limits in (AgentLimits(), EdgeLimits()):
        assert limits.ping_interval + limits.ping_timeout + 2 * tick <= 20


# --- edges that come and go -------------------------------------------------------------------------------------------


async def test_an_edge_that_stops_tells_its_agents_who_are_elsewhere_before_it_closes_their_links(site: Site) -> None:
    going = Edge(site.edge_config("edge-1", limits={"stop_seconds": 5.0}))
    await going.start()
    async with (
        Origin(Echo) as origin,
        site.edge("edge-2", **EDGE) as staying,
        agent_at(site, going.agents_address, staying.agents_address, url=origin.url) as agent,
    ):
        stream, _ = await site.open(going)
        fewest = 4
        stopping = asyncio.gather(going.stop())
        async with asyncio.timeout(5):
            while links_of(staying) < 4:
                fewest = min(fewest, links_of(going) + links_of(staying))
                await asyncio.sleep(0)
        assert fewest == 4  # each new one was there before the old one went
        assert agent.links == 4
        await stream.write(b"the last call")
        assert await stream.read(100) == b"the last call"
        await stream.aclose()
        async with asyncio.timeout(3):
            await stopping
        await site.hang_up()


async def test_an_edge_that_is_the_only_one_stops_without_waiting_for_its_agents(site: Site) -> None:
    going = Edge(site.edge_config("edge-1", limits={"stop_seconds": 5.0, "handover_seconds": 5.0}))
    await going.start()
    async with Origin(Echo) as origin, agent_at(site, going.agents_address, url=origin.url):
        async with asyncio.timeout(2):
            await going.stop()


async def test_links_move_to_an_edge_that_comes_back(site: Site) -> None:
    config = site.edge_config("edge-1", **EDGE)
    going = Edge(config)
    await going.start()
    address = going.agents_address
    async with Origin(Echo) as origin, site.edge("edge-2", **EDGE) as staying:
        async with agent_at(site, address, staying.agents_address, url=origin.url) as agent:
            await going.stop()
            await until(lambda: links_of(staying) == 4)
            back = Edge(site.edge_config("edge-1", agents_addr=str(address), **EDGE))
            await back.start()
            await until(lambda: (links_of(back), links_of(staying)) == (2, 2), seconds=10)
            await until(lambda: agent.links == 4)
            await site.hang_up()
        await back.stop()


async def test_edges_and_their_ca_are_learned_over_a_link(site: Site) -> None:
    old_ca = site.edge_ca
    new_ca = ca.ca("edge-ca-2", issuer=old_ca)
    async with Origin(Echo) as origin, site.edge(**EDGE) as one:
        site.edge_ca = new_ca
        async with site.edge("edge-2", **EDGE) as two:
            site.edge_ca = old_ca
            async with agent_at(site, one.agents_address, url=origin.url) as agent:
                assert links_of(two) == 0
                site.agent_edges = (str(one.agents_address), str(two.agents_address))
                site.told_cas = (old_ca, new_ca)
                site.publish(one, two)
                await until(lambda: (links_of(one), links_of(two)) == (2, 2), seconds=10)
                assert agent.links == 4


async def test_an_agent_that_was_told_of_an_edge_where_nobody_answers_goes_back_to_its_tokens(site: Site) -> None:
    going = Edge(site.edge_config("edge-1", **EDGE))
    await going.start()
    address = going.agents_address
    async with Origin(Echo) as origin, agent_at(site, address, url=origin.url):
        site.agent_edges = ("127.0.0.1:9",)  # an advertised address that was wrong
        with capture_logs() as lines:
            site.publish(going)
            await until(lambda: any(line["event"] == "edges learned" for line in lines), seconds=10)
        await going.stop()
        back = Edge(site.edge_config("edge-1", agents_addr=str(address), **EDGE))
        await back.start()
        await until(lambda: links_of(back) == 4, seconds=20)
        await site.hang_up()
    await back.stop()


async def test_a_ca_that_no_trusted_one_signed_is_not_learned(site: Site) -> None:
    stranger = ca.ca("edge-ca")
    async with Origin(Echo) as origin, site.edge(**EDGE) as one, agent_at(site, one.agents_address, url=origin.url, links=1):
        with capture_logs() as lines:
            site.told_cas = (site.edge_ca, stranger)
            site.agent_edges = (str(one.agents_address),)
            site.publish(one)
            await until(lambda: any("edge CA not taken over" in line["event"] for line in lines))
        assert not any(line["event"] == "edge CA learned" for line in lines)


async def test_an_agent_that_was_given_its_edges_learns_no_others(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge(**EDGE) as one, site.edge("edge-2", **EDGE) as two:
        settings: dict[str, Any] = {"edge": str(one.agents_address), "limits": {**QUICK, "respread_interval": 0.1}}
        async with agent_at(site, two.agents_address, url=origin.url, **settings) as agent:
            site.agent_edges = (str(one.agents_address), str(two.agents_address))
            site.publish(one)
            await asyncio.sleep(0.5)  # five times the interval at which links would move
            assert (links_of(one), links_of(two)) == (4, 0)
            assert agent.links == 4


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_file_that_changes_heals_a_refusal_without_a_restart(site: Site) -> None:
    fresh = b"f" * 32
    file = site.folder / "token"
    limits = {**QUICK, "token_poll": 0.05}
    site.tunnels = (tunnel(verifiers=(hashlib.sha256(fresh).hexdigest(),)),)
    async with Origin(Echo) as origin, site.edge(**EDGE) as edge:
        address = str(edge.agents_address)
        file.write_text(site.token(address, secret=SECRET).reveal())
        config = site.agent_config(url=origin.url, token=None, token_file=file, limits=limits)
        agent = Agent(config)
        with capture_logs() as lines:
            await agent.start()
            await until(lambda: edge.metrics.registrations.labels("refused")._value.get() >= 1)
            file.write_text("garbage, half written")
            await until(lambda: any(line["event"] == "token file not usable" for line in lines))
            file.write_text(site.token(address, secret=fresh).reveal())
            await until(lambda: agent.links == 4)
            await agent.stop()
        assert sum(line["event"] == "registration refused" and line["log_level"] == "error" for line in lines) == 1
        assert sum(line["event"] == "token file not usable" and line["log_level"] == "error" for line in lines) == 1
        assert all("pst" not in str(line.get("error")) for line in lines)


async def test_a_rotated_token_file_leaves_live_links_and_a_new_tunnels_file_replaces_them(site: Site) -> None:
    fresh = b"f" * 32
    file = site.folder / "token"
    limits = {**QUICK, "token_poll": 0.05}
    other = tunnel(id="tnl_01Other", wire_id="9a1b0c4e-0000-4000-8000-000000000002", domain="zz99zz99.tunnel.example.com")
    async with Origin(Echo) as origin, site.edge(**EDGE) as edge:
        address = str(edge.agents_address)
        file.write_text(site.token(address).reveal())
        agent = Agent(site.agent_config(url=origin.url, token=None, token_file=file, limits=limits))
        await agent.start()
        await until(lambda: agent.links == 4)
        before = set(edge.sessions.links_of(TUNNEL_ID))
        with capture_logs() as lines:
            site.tunnels = (tunnel(verifiers=(hashlib.sha256(fresh).hexdigest(),)), other)
            site.publish(edge)
            file.write_text(site.token(address, secret=fresh).reveal())
            await until(lambda: any(line["event"] == "tunnel token read again" for line in lines))
            assert set(edge.sessions.links_of(TUNNEL_ID)) == before
            next(iter(before)).link.abort()  # the next one needs the new value, and has it
            await until(lambda: links_of(edge) == 4 and set(edge.sessions.links_of(TUNNEL_ID)) != before)
        other_id = type(TUNNEL_ID)(other.wire_id)
        file.write_text(site.token(address, tunnel_id=other_id).reveal())
        await until(lambda: len(list(edge.sessions.links_of(other_id))) == 4 and links_of(edge) == 0)
        assert agent.links == 4
        await agent.stop()


# --- said plainly -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("not yet valid", "the edge's certificate is not valid yet"),
        ("expired", "the edge's certificate has expired"),
        ("another CA", "the edge's certificate is not signed by a CA that this agent trusts"),
        ("another name", "the edge's certificate is not that of an edge for agents"),
        ("no name", "the name is not known"),
        ("nobody there", "the connection was refused or the network is unreachable"),
    ],
)
async def test_why_an_edge_is_not_reached_is_said_with_what_to_do(site: Site, change: str, said: str) -> None:
    trusted = site.edge_ca
    spans = {"not yet valid": ca.NOT_YET_VALID, "expired": ca.EXPIRED}
    if change in spans:
        span, starts_in = spans[change]
        site.edge_validity = ca.valid(span, starts_in=starts_in)
    elif change == "another CA":
        site.edge_ca = ca.ca("edge-ca")
    elif change == "another name":
        site.edge_names = ["www.example.com"]
    async with site.edge(**EDGE) as edge:
        site.edge_ca = trusted
        address = {"no name": "edge.invalid:7844", "nobody there": "127.0.0.1:9"}.get(change, str(edge.agents_address))
        agent = Agent(site.agent_config(url="", token=site.token(address), limits=QUICK))
        with capture_logs() as lines:
            await agent.start()
            await until(lambda: any(line["event"] == "edge unreachable" for line in lines))
            await agent.stop()
    line = next(line for line in lines if line["event"] == "edge unreachable")
    assert line["error"] == said
    assert line["hint"]
    assert line["edge"] == address
    if change in spans:
        assert "this machine's clock says 20" in line["hint"]


# --- through a company's proxy ----------------------------------------------------------------------------------------


async def test_links_go_through_a_connect_proxy_and_around_it_where_no_proxy_says_so(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        site.edge(**EDGE) as edge,
        HttpProxy({"edge.test:7844": str(edge.agents_address)}, credentials="Basic dTpodW50ZXIy") as proxy,
    ):
        url = f"http://u:hunter2@127.0.0.1:{proxy.port}"
        far = HostPort("edge.test", 7844)
        with capture_logs() as lines:
            async with agent_at(site, far, url=origin.url, https_proxy=Secret(url)):
                assert proxy.asked == ["edge.test:7844"] * 4
                await echoes(site, edge)
            async with agent_at(site, edge.agents_address, url=origin.url, https_proxy=Secret(url)):
                assert len(proxy.asked) == 4  # loopback needs none
            agent = Agent(site.agent_config(url="", token=site.token(str(far)), https_proxy=Secret(url), no_proxy=".test"))
            await agent.start()
            await until(lambda: any(line.get("error") == "the name is not known" for line in lines))
            await agent.stop()
        assert "hunter2" not in str(lines)
        assert "aHVudGVyMg" not in str(lines)
