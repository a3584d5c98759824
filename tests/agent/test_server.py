from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.support.site import Echo, Origin, Site

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_a_stream_goes_through_edge_and_agent_to_the_origin_and_back(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, site.agent(edge, url=origin.url) as agent:
        assert (agent.links, edge.sessions.registered) == (4, 4)
        stream, _ = await site.open(edge)
        async with asyncio.timeout(5):
            await stream.write(b"hello")
            assert await stream.read(100) == b"hello"
            await stream.aclose()
            await origin.protocols[0].gone
