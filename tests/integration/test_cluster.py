"""Three edges on one control plane with a real PostgreSQL: one goes, by order or by accident, and calls go on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.support.forwarder import Forwarder
from tests.support.load import CALLERS, answering, calling, holding
from tests.support.site import until
from tests.support.store import server
from tests.support.world import World, world

from penstock.agent.server import Agent
from penstock.client.control import ControlClient
from penstock.config.types import HostPort
from penstock.edge.config import EdgeLimits
from penstock.net.transports import cut
from penstock.secret import Secret
from penstock.tls.names import edge_server_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.world import Side

    from penstock.edge.server import Edge
    from penstock.schema.links import Link

pytestmark = pytest.mark.anyio


@dataclass
class Cluster:
    world: World
    edges: dict[str, Edge]
    side: Side

    def holding(self) -> dict[str, int]:
        return {name: edge.sessions.registered for name, edge in self.edges.items()}

    async def spread(self) -> None:
        """Every edge has a link."""
        await until(lambda: min(self.holding().values()) >= 1, seconds=20)


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    limits = EdgeLimits(feed_wait_seconds=5.0, stop_seconds=10.0)  # a busy machine is slow, and nothing here waits in vain
    async with answering() as route, world(folder, edge_limits=limits, database_url=Secret(server().database())) as running:
        edges = {"up": running.edge, **{name: await running.add_edge(name) for name in ("edge-2", "edge-3")}}
        side = await running.add_side({"echo": route}, links=3)
        made = Cluster(running, edges, side)
        await made.spread()
        yield made


async def test_the_edge_in_use_drains_under_load_and_no_call_fails(cluster: Cluster) -> None:
    async with calling(cluster.world.access, cluster.side.url()) as running:
        name = next(name for name, edge in cluster.edges.items() if edge.ingress.live)
        leaving = cluster.edges.pop(name)
        await leaving.stop()
        assert leaving.ingress.live == 0
        assert leaving.metrics.cut.labels("drained")._value.get() == 0
        calls = running.calls
        await until(lambda: running.calls >= calls + 5 * CALLERS)
    assert running.failures == []
    await until(lambda: cluster.side.agent.links == 3)
    cluster.edges[name] = await cluster.world.add_edge(name)
    await cluster.spread()


async def test_live_links_are_listed_with_their_edge_and_agent(cluster: Cluster) -> None:
    manager = cluster.world.manager
    async with ControlClient(manager.api_url, manager.api_key) as control, asyncio.timeout(20):
        links: list[Link] = []
        while {link.edge for link in links} != cluster.edges.keys():  # a new edge's first report
            links = [link async for link in control.links(cluster.side.stack.tunnel_id)]
            await asyncio.sleep(0.05)
    assert len({link.agent_id for link in links}) == 1
    assert all(link.version and link.tunnel_id == cluster.side.stack.tunnel_id for link in links)


async def test_the_only_agent_restarts_under_load_and_no_call_fails(cluster: Cluster) -> None:
    async with calling(cluster.world.access, cluster.side.url()) as running:
        await cluster.side.agent.stop()
        await asyncio.sleep(0.7)  # what a container takes to come back
        cluster.side.agent = Agent(cluster.side.agent._config)
        await cluster.side.agent.start()
        cluster.world.started.push_async_callback(cluster.side.agent.stop)
        calls = running.calls
        await until(lambda: running.calls >= calls + 5 * CALLERS, seconds=20)
    assert running.failures == []
    assert sum(edge.metrics.held.labels("opened")._value.get() for edge in cluster.edges.values()) > 0
    await cluster.spread()


async def test_a_caller_newer_than_an_edges_interrupted_feed_is_served_by_another_edge(cluster: Cluster) -> None:
    async with Forwarder(HostPort.parse(cluster.world.control.url.removeprefix("http://"))) as between:
        behind = await cluster.world.add_edge("edge-behind", control_url=f"http://{between.address}")
        between.silence()
        between.cut()
        await until(lambda: behind.feed.is_interrupted)
        async with cluster.world.streams() as streams:
            await (await streams.open(f"echo.{cluster.side.stack.domain}")).start_tls()
            tunnel_id = cluster.side.stack.tunnel_id
            streams._whereabouts._holders[tunnel_id] = edge_server_name("edge-behind")  # the first to be asked
            refused = behind.metrics.opened.labels("agent_unavailable")._value.get
            before = refused()
            await (await streams.open(f"echo.{cluster.side.stack.domain}")).start_tls()
            assert refused() == before + 1
        await behind.stop()


async def test_an_edge_dies_and_every_next_call_is_served_within_two_seconds(cluster: Cluster) -> None:
    async with calling(cluster.world.access, cluster.side.url()) as running:
        name = next(name for name, edge in cluster.edges.items() if edge.ingress.live)
        await die(cluster.edges.pop(name))
        failed = len(running.failures)
        running.restart_the_clock()
        calls = running.calls
        await until(lambda: running.calls >= calls + 5 * CALLERS)
        in_flight = [exc for exc in running.failures if not isinstance(exc, httpx2.ConnectError)]
        assert running.failures == in_flight
        assert len(running.failures) - failed <= CALLERS  # what was under way
    assert running.slowest < 2.0


async def test_an_edge_dies_with_streams_that_live_and_every_next_call_is_served_within_two_seconds(cluster: Cluster) -> None:
    await cluster.spread()
    async with holding(cluster.world.access, cluster.side.url(), 20) as held:
        name = max(cluster.edges, key=lambda name: cluster.edges[name].ingress.live)
        await die(cluster.edges.pop(name))
        await until(lambda: held.cut > 0 and len(held.took) + len(held.failures) == held.cut, seconds=20)
        assert held.failures == []
        assert held.holding == 20 - held.cut
    assert max(held.took) < 2.0


async def die(edge: Edge) -> None:
    """As a process that is killed: no word to anybody."""
    for listener in (edge._callers, edge._agents):
        assert listener is not None
        listener.close()
    await edge._tasks.aclose()
    for live in list(edge.ingress.streams._live):
        cut(live.caller)
        cut(live.stream)
    for session in list(edge.sessions._open):
        session.link.abort()
    for own in list(edge.ingress.events._open.values()):
        for subscriber in list(own):
            subscriber.cut()
