"""What rotating a token and archiving a tunnel do to links and streams, from the API to the agent, and how soon."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
from tests.support.site import until

from penstock.client.control import ControlClient
from penstock.protocol.token import parse_token

if TYPE_CHECKING:
    from tests.support.world import Upstream, World

pytestmark = pytest.mark.anyio


async def test_archiving_a_tunnel_cuts_its_links_and_streams_within_a_second(platform: World, upstream: Upstream) -> None:
    side = await platform.add_side({"echo": upstream.url}, links=4)
    kept = await platform.add_side({"echo": upstream.url}, links=2)
    loop = asyncio.get_running_loop()
    async with platform.streams() as streams, ControlClient(platform.control.url, platform.manager.api_key) as control:
        pipe = await (await streams.open(side.host())).start_tls()
        began = loop.time()
        await control.archive_tunnel(side.stack.tunnel_id)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await asyncio.wait_for(pipe.read(1), 5)
        await until(lambda: side.agent.links == 0)
        assert loop.time() - began < 1.0
        assert kept.agent.links == 2


async def test_a_rotated_token_refuses_new_links_at_once_leaves_live_ones_and_heals_by_its_file(
    platform: World, upstream: Upstream
) -> None:
    side = await platform.add_side({"echo": upstream.url}, links=4)
    wire_id = parse_token(side.stack.token_file.read_text()).tunnel_id
    refused = side.agent.metrics.tries.labels("refused")
    async with platform.streams() as streams, ControlClient(platform.control.url, platform.manager.api_key) as control:
        stream = await streams.open(side.host())
        version = platform.edge.feed.version
        fresh = await control.rotate_token(side.stack.tunnel_id)
        await until(lambda: platform.edge.feed.version > version, seconds=1.0)
        assert side.agent.links == 4
        links = [session for session in platform.edge.sessions.links_of(wire_id) if session.load == 1]
        links[0].link.abort()  # one that carries no stream but the control stream
        await until(lambda: refused._value.get() == 1)
        assert side.agent.links == 3
        assert not stream.websocket.is_closing()
        side.stack.token_file.write_text(fresh.value.reveal())
        await until(lambda: side.agent.links == 4, seconds=15)  # the file is looked at every 5 s
        stream.websocket.abort()
