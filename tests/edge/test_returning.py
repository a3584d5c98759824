"""An agent that was here a moment ago is waited for."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from tests.edge.test_peers import cluster
from tests.support.rawagent import raw_agent
from tests.support.site import TUNNEL_ID, Echo, Origin, tunnel, until

if TYPE_CHECKING:
    from tests.support.site import Site

    from penstock.edge.server import Edge
    from penstock.net.upgrade import UpgradeResponse

pytestmark = pytest.mark.anyio

LONG = {"return_seconds": 30.0, "stop_seconds": 0.1}
AT_ONCE = 1.0


async def left(site: Site, edge: Edge) -> None:
    """An agent registers and goes, as one that is killed does."""
    async with raw_agent(site, edge) as agent:
        await agent.register()
        await until(lambda: edge.sessions.registered == 1)
    await until(lambda: edge.sessions.registered == 0)


async def asked(site: Site, edge: Edge, **asking: Any) -> tuple[int, bytes | None, bytes | None]:
    response, transport = await site.ask(edge, **asking)
    if response.status != 101:
        transport.abort()
    return said(response)


def said(response: UpgradeResponse) -> tuple[int, bytes | None, bytes | None]:
    return response.status, response.header(b"penstock-error"), response.header(b"retry-after")


REFUSED = (502, b"agent_unavailable", b"1")


def outcomes(edge: Edge) -> dict[str, float]:
    counted = {outcome: edge.metrics.held.labels(outcome)._value.get() for outcome in ("opened", "refused", "gone")}
    return {outcome: count for outcome, count in counted.items() if count}


async def test_callers_of_an_agent_that_restarts_are_served_as_soon_as_it_is_back(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge(limits=LONG) as edge:
        async with site.agent(edge, url=origin.url, links=2):
            pass  # told to stop, it unregisters
        await until(lambda: edge.sessions.registered == 0)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            asking = [group.create_task(asked(site, edge)) for _ in range(3)]
            await until(lambda: edge.sessions.returning.waiting == 3)
            assert edge.metrics.waiting._value.get() == 3
            async with site.agent(edge, url=origin.url, links=2):
                assert [status for status, *_ in await asyncio.gather(*asking)] == [101] * 3
        assert outcomes(edge) == {"opened": 3}
        assert edge.sessions.returning.waiting == edge.metrics.waiting._value.get() == 0


async def test_an_agent_that_does_not_return_is_waited_for_once_and_no_longer_than_said(site: Site) -> None:
    loop = asyncio.get_running_loop()
    async with site.edge(limits={**LONG, "return_seconds": 1.0}) as edge:
        await left(site, edge)
        gone = loop.time()
        assert await asked(site, edge) == REFUSED
        assert loop.time() - gone > 0.8  # from when it left
        assert outcomes(edge) == {"refused": 1}
        assert await asked(site, edge) == REFUSED
        assert outcomes(edge) == {"refused": 1}  # whoever comes later is told at once


@pytest.mark.parametrize("limits", [{**LONG, "return_seconds": 0.0}, LONG], ids=["turned off", "it never had one"])
async def test_nobody_waits_where_there_is_nothing_to_wait_for(site: Site, limits: dict[str, float]) -> None:
    other = tunnel(id="tnl_01Other", wire_id=str(uuid.uuid4()), domain="other.tunnel.example.com")
    site.tunnels = (*site.tunnels, other)
    async with site.edge(limits=limits) as edge:
        await left(site, edge)
        async with asyncio.timeout(5):
            assert await asked(site, edge, **({"host": f"echo.{other.domain}"} if limits is LONG else {})) == REFUSED
        assert outcomes(edge) == {}


async def test_whoever_waits_is_told_at_once_that_the_tunnel_is_archived_or_the_edge_stops_and_may_leave(site: Site) -> None:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        async with site.edge(limits=LONG) as edge:
            await left(site, edge)
            leaving = group.create_task(asked(site, edge))
            await until(lambda: edge.sessions.returning.waiting == 1)
            leaving.cancel()
            site.dialled[-1].abort()
            await until(lambda: edge.sessions.returning.waiting == 0)
            assert outcomes(edge) == {"gone": 1}
            archived = group.create_task(asked(site, edge))
            await until(lambda: edge.sessions.returning.waiting == 1)
            site.tunnels = ()
            site.publish(edge)
            assert await archived == (404, b"tunnel_not_found", None)
            site.tunnels = (tunnel(),)
            site.publish(edge)
            await left(site, edge)
            stopping = group.create_task(asked(site, edge))
            await until(lambda: edge.sessions.returning.waiting == 1)
        assert await stopping == REFUSED


async def test_as_many_wait_for_one_tunnel_and_in_all_as_may(site: Site) -> None:
    other = tunnel(id="tnl_01Other", wire_id=str(uuid.uuid4()), domain="other.tunnel.example.com")
    site.tunnels = (*site.tunnels, other)
    async with site.edge(limits={**LONG, "held": 2, "held_a_tunnel": 1}) as edge, asyncio.TaskGroup() as group:
        edge.sessions.returning.left(uuid.UUID(other.wire_id))
        await left(site, edge)
        waiting = [group.create_task(asked(site, edge))]
        await until(lambda: edge.sessions.returning.waiting == 1)
        async with asyncio.timeout(5):
            assert await asked(site, edge) == REFUSED  # the tunnel's places are taken
            waiting.append(group.create_task(asked(site, edge, host=f"echo.{other.domain}")))
            await until(lambda: edge.sessions.returning.waiting == 2)
            edge.sessions.returning._most_a_tunnel = 10
            assert await asked(site, edge) == REFUSED  # all places are
        edge.sessions.returning.end_all()
        assert await asyncio.gather(*waiting) == [REFUSED, REFUSED]


async def test_callers_of_an_agent_that_comes_back_at_another_edge_are_passed_on_as_soon_as_control_says_where(
    site: Site,
) -> None:
    """What control said before is no news: the other edge may have lost it too."""
    async with Origin(Echo) as origin, cluster(site, limits=LONG) as (holder, other), asyncio.timeout(20):
        hears = site.controls["edge-2"]
        assert hears.holders == {str(TUNNEL_ID): ("edge-1",)}
        await left(site, other)
        reports = hears.reports
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(asked(site, other)) for _ in range(3)]
            await until(lambda: other.sessions.returning.waiting == 3)
            await until(lambda: hears.reports >= reports + 2)  # woken in vain, they wait on
            hears.holders = {}
            assert not any(task.done() for task in asking)
            async with site.agent(holder, url=origin.url, links=1):
                hears.holders = {str(TUNNEL_ID): ("edge-1",)}
                assert [status for status, *_ in await asyncio.gather(*asking)] == [101] * 3
                assert hears.reports < reports + 20  # asked now and then
        assert outcomes(other) == {"opened": 3}
        assert outcomes(holder) == {}


async def test_another_edge_that_has_the_tunnel_serves_without_a_wait_and_waits_for_nobody_itself(site: Site) -> None:
    async with Origin(Echo) as origin, cluster(site, limits=LONG) as (holder, other), asyncio.timeout(20):
        await left(site, other)
        async with site.agent(holder, url=origin.url, links=1):
            stream, _ = await site.open(other)
            await stream.aclose()
            assert outcomes(other) == {}
        await until(lambda: holder.sessions.registered == 0)
        other.sessions.returning.end_all()  # where the caller is nobody waits, and who was asked for it does not either
        assert await asked(site, other) == REFUSED
        assert outcomes(holder) == outcomes(other) == {}
