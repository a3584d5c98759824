"""A stock `cloudflared` at our edge: every promise of docs/guides/stock-cloudflared.md, with the real program.

Collected only where `$CLOUDFLARED` names a binary.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from mcp import types
from tests.support.ca import HOST
from tests.support.mcp_servers import Stage, sdk_server, serving
from tests.support.pages import Page
from tests.support.rawagent import raw_agent
from tests.support.site import SECRET, TUNNEL_ID, Echo, Origin, Site, Stalled, tunnel, until
from tests.support.stockagent import BINARY, StockAgent, stock_agent
from tests.support.terminal import Terminal, of_a_newcomer
from tests.support.world import world

from penstock.client.mcp import mcp_session
from penstock.edge.server import Edge
from penstock.net.streams import ByteStream
from penstock.secret import Secret

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(120)]

PAGE = Page("guides/stock-cloudflared.md")
MIB = 1024 * 1024
QUICK = {"feed_wait_seconds": 0.05, "stop_seconds": 5.0}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def stock(
    site: Site, edge: Edge, *, url: str, links: int = 4, secret: bytes = SECRET, **more: str
) -> contextlib.AbstractAsyncContextManager[StockAgent]:
    """A stock agent of the site's tunnel; the address is listed once a link, as the guide says."""
    ca_pem = site.edge_ca.certificate_pem
    return stock_agent(site.folder, site.token(secret=secret), [edge.agents_address] * links, ca_pem, url=url, **more)


def links_of(edge: Edge) -> int:
    return len(list(edge.sessions.links_of(TUNNEL_ID)))


# --- registering ------------------------------------------------------------------------------------------------------


async def test_it_registers_four_connections_and_serves_a_stream(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, stock(site, edge, url=origin.url) as agent:
        await agent.until_ready(4)
        assert links_of(edge) == 4
        assert agent.count("Registered tunnel connection") == 4
        assert len({session.connector_id for session in edge.sessions.links_of(TUNNEL_ID)}) == 1
        stream, response = await site.open(edge, headers=[(b"x-kept", b"1")])
        assert response.header(b"penstock-replica")
        await stream.write(b"hello")
        assert await stream.read(100) == b"hello"
        assert origin.requests[0].header(b"x-kept") == b"1"
        await stream.aclose()
        await origin.protocols[0].gone


async def test_an_mcp_call_goes_through_it_with_inner_tls_from_caller_to_proxy(tmp_path: Path) -> None:
    async with serving(sdk_server(Stage()).streamable_http_app()) as url, world(tmp_path) as platform:
        side = await platform.add_side({"echo": url})
        await side.agent.stop()
        edge = platform.edge
        async with stock_agent(
            tmp_path,
            Secret(side.stack.token_file.read_text().strip()),
            [edge.agents_address] * 4,
            platform.edge_identity().edge_ca_pem,
            url=f"http://{side.proxy.address}",
        ) as agent:
            await agent.until_ready(4)
            async with mcp_session(f"https://echo.{side.stack.domain}/mcp", platform.access) as session:
                result = await session.call_tool("hello", {"name": "stock"})
            assert [part.text for part in result.content if isinstance(part, types.TextContent)] == ["Hello, stock!"]


async def test_the_guides_commands_start_it(tmp_path: Path) -> None:
    async with serving(sdk_server(Stage()).streamable_http_app()) as url, world(tmp_path) as platform:
        side = await platform.add_side({"echo": url})
        await side.agent.stop()
        token = side.stack.token_file.read_text().strip()
        variables = of_a_newcomer(tmp_path, TUNNEL_TOKEN=token)
        (tmp_path / "cloudflared").symlink_to(BINARY)
        variables["PATH"] = f"{tmp_path}:{variables['PATH']}"
        edge = str(platform.edge.agents_address)
        ours = {"edge-1.example.com:7844": edge, "edge-2.example.com:7844": edge, "eyJ…": token}
        ours |= {"http://localhost:8080": f"http://{side.proxy.address}"}
        with Terminal(tmp_path, variables, changes=ours) as terminal:
            terminal.start(PAGE.commands("stays"))
            await until(lambda: terminal.said.count("Registered tunnel connection") == 4, seconds=60)
            async with mcp_session(f"https://echo.{side.stack.domain}/mcp", platform.access) as session:
                result = await session.call_tool("hello", {"name": "guide"})
            assert [part.text for part in result.content if isinstance(part, types.TextContent)] == ["Hello, guide!"]


async def test_a_wrong_secret_is_refused_so_that_it_goes_on_trying_and_a_right_one_then_registers(site: Site) -> None:
    site.tunnels = (tunnel(verifiers=("00" * 32,)),)
    async with Origin(Echo) as origin, site.edge(limits=QUICK) as edge, stock(site, edge, url=origin.url) as agent:
        refused = edge.metrics.registrations.labels("refused")
        await until(lambda: refused._value.get() >= 2, seconds=30)
        assert agent.is_running
        assert agent.count("Unauthorized") >= 1
        site.tunnels = (tunnel(),)
        site.publish(edge)
        await agent.until_ready(4, seconds=60)


async def test_a_full_edge_is_dialled_again_until_it_has_room(site: Site) -> None:
    limits = {**QUICK, "links": 1}
    async with Origin(Echo) as origin, site.edge(limits=limits) as edge, raw_agent(site, edge) as occupant:
        await occupant.register()
        busy = edge.metrics.registrations.labels("busy")
        async with stock(site, edge, url=origin.url, links=2) as agent:
            await until(lambda: busy._value.get() >= 2, seconds=30)
            occupant.link.abort()
            await agent.until_ready(1, seconds=60)


async def test_a_rotated_token_leaves_its_links_and_refuses_its_next_ones(site: Site) -> None:
    fresh = b"f" * 32
    async with Origin(Echo) as origin, site.edge(limits=QUICK) as edge, stock(site, edge, url=origin.url, links=2) as agent:
        await agent.until_ready(2)
        stream, _ = await site.open(edge)
        site.tunnels = (tunnel(verifiers=(hashlib.sha256(fresh).hexdigest(),)),)
        site.publish(edge)
        await stream.write(b"still here")
        assert await stream.read(100) == b"still here"
        assert links_of(edge) == 2
        async with stock(site, edge, url=origin.url, links=2, secret=SECRET, name="old") as old:
            await until(lambda: old.count("Unauthorized") >= 1, seconds=20)
            assert await old.ready() == 0
        async with stock(site, edge, url=origin.url, links=2, secret=fresh, name="new") as new:
            await new.until_ready(2)
            assert links_of(edge) == 4
        await stream.aclose()


async def test_after_an_edges_restart_all_its_connections_are_back(site: Site) -> None:
    edge = Edge(site.edge_config(limits=QUICK))
    await edge.start()
    async with Origin(Echo) as origin, stock(site, edge, url=origin.url) as agent:
        await agent.until_ready(4)
        address = edge.agents_address
        await edge.stop()
        began = time.monotonic()
        restarted = Edge(site.edge_config(agents_addr=str(address), limits=QUICK))
        await restarted.start()
        await until(lambda: links_of(restarted) == 4, seconds=60)
        print(f"all four connections back after {time.monotonic() - began:.1f} s")  # noqa: T201 - a figure for the report
        stream, _ = await site.open(restarted)
        await stream.write(b"healed")
        assert await stream.read(100) == b"healed"
        await stream.aclose()
        await site.hang_up()
        await restarted.stop()


async def test_an_edge_that_stops_lets_its_streams_finish_and_the_other_edge_serves_meanwhile(site: Site) -> None:
    going = Edge(site.edge_config("edge-1", limits=QUICK))
    await going.start()
    ca_pem = site.edge_ca.certificate_pem
    async with Origin(Echo) as origin, site.edge("edge-2", limits=QUICK) as staying:
        addresses = [going.agents_address, staying.agents_address] * 2
        async with stock_agent(site.folder, site.token(), addresses, ca_pem, url=origin.url) as agent:
            await agent.until_ready(4)
            assert (links_of(going), links_of(staying)) == (2, 2)
            stream, _ = await site.open(going)
            stopping = asyncio.gather(going.stop())
            await until(lambda: links_of(going) == 1)  # the idle link was closed, that of the stream waits
            await stream.write(b"the last call")
            assert await stream.read(100) == b"the last call"
            await stream.aclose()
            async with asyncio.timeout(3):
                await stopping
            assert links_of(staying) >= 2
            assert agent.is_running
            await site.hang_up()


# --- leaving ----------------------------------------------------------------------------------------------------------


async def test_on_sigterm_it_unregisters_its_streams_finish_and_it_exits_at_once(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, stock(site, edge, url=origin.url) as agent:
        await agent.until_ready(4)
        stream, _ = await site.open(edge)
        stopping = asyncio.gather(agent.stop())
        await until(lambda: links_of(edge) == 0)
        refused, _ = await site.ask(edge)  # nothing new is sent there
        assert refused.status == 502
        await stream.write(b"the last call")
        assert await stream.read(100) == b"the last call"
        assert not stopping.done()
        began = time.monotonic()
        await stream.aclose()
        assert (await stopping) == [0]
        took = time.monotonic() - began
        print(f"exited {took:.2f} s after its last stream")  # noqa: T201 - a figure for the report
        assert took < 3  # its grace period is 30 s


async def test_with_no_stream_open_it_is_gone_within_a_second_or_two(site: Site) -> None:
    async with Origin(Echo) as origin, site.edge() as edge, stock(site, edge, url=origin.url) as agent:
        await agent.until_ready(4)
        began = time.monotonic()
        assert await agent.stop() == 0
        took = time.monotonic() - began
        print(f"exited {took:.2f} s after SIGTERM")  # noqa: T201 - a figure for the report
        assert took < 3


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_more_than_its_connection_window_goes_up_and_comes_back_whole(site: Site) -> None:
    size = 8 * MIB
    async with Origin(Echo) as origin, site.edge() as edge, stock(site, edge, url=origin.url, links=1) as agent:
        await agent.until_ready(1)
        stream, _ = await site.open(edge)
        sent, got = hashlib.sha256(), hashlib.sha256()

        async def send() -> None:
            for n in range(size // 65_536):
                block = n.to_bytes(4, "big") * 16_384
                sent.update(block)
                await stream.write(block)

        async def receive() -> None:
            left = size
            while left:
                data = await stream.read(MIB)
                assert data, "it ended early"
                got.update(data)
                left -= len(data)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(send())
            group.create_task(receive())
        assert sent.digest() == got.digest()
        await stream.aclose()


@pytest.mark.parametrize("count", [1, 4, 20])
async def test_uploads_that_stall_do_not_freeze_the_link(site: Site, count: int) -> None:
    def protocol() -> asyncio.Protocol:
        return Stalled() if len(origin.protocols) < count else Echo()

    async with Origin(protocol) as origin, site.edge() as edge, stock(site, edge, url=origin.url, links=1) as agent:
        await agent.until_ready(1)
        stalled = [(await site.open(edge))[0] for _ in range(count)]
        for stream in stalled:
            stream.transport.write(bytes(4 * MIB))
        (session,) = edge.sessions.links_of(TUNNEL_ID)
        sent = -1
        while sent != (sent := session.link._http.uncredited):
            await asyncio.sleep(0.3)  # until nothing moves any more
        assert sent >= min(count * 64 * 1024, MIB) * 3 // 4
        began = time.monotonic()
        other, _ = await site.open(edge)
        await other.write(b"x" * 100_000)
        got = 0
        async with asyncio.timeout(15):
            while got < 100_000:
                got += len(await other.read(MIB))
        took = time.monotonic() - began
        print(f"{count} stalled uploads: 100 KB there and back in {took:.2f} s")  # noqa: T201 - a figure for the report
        assert took < 10  # stall_timeout is 5 s
        await other.aclose()
        for stream in stalled:
            stream.transport.abort()


async def test_a_head_of_sixty_kilobytes_does_not_end_the_link(site: Site) -> None:
    cookie = b"c" * 60_000

    async def big(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nSet-Cookie: a=" + cookie + b"\r\n\r\nno")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(big, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, site.edge() as edge, stock(site, edge, url=f"http://127.0.0.1:{port}", links=1) as agent:
        await agent.until_ready(1)
        before = list(edge.sessions.links_of(TUNNEL_ID))
        transport = await site.dial(edge)
        response = await _ask(transport)
        assert b" 403 " in response.split(b"\r\n", 1)[0]
        assert len(response) > 60_000
        assert list(edge.sessions.links_of(TUNNEL_ID)) == before


async def test_nothing_on_its_local_target_is_our_code_for_it(site: Site) -> None:
    async with site.edge() as edge, stock(site, edge, url="http://127.0.0.1:9", links=1) as agent:
        await agent.until_ready(1)
        response, _ = await site.ask(edge)
        assert (response.status, response.header(b"penstock-error")) == (502, b"proxy_unreachable")


# --- what a hostile caller tries --------------------------------------------------------------------------------------


async def test_a_caller_cannot_reconfigure_it_nor_make_it_dial(site: Site) -> None:
    async with (
        Origin(Echo) as origin,
        Origin(Echo) as secret,
        site.edge() as edge,
        stock(site, edge, url=origin.url, links=1) as agent,
    ):
        await agent.until_ready(1)
        for name, value in (
            (b"Cf-Cloudflared-Proxy-Connection-Upgrade", b"update-configuration"),
            (b"cf-cloudflared-proxy-src", b"x"),
        ):
            stream, _ = await site.open(edge, headers=[(name, value)])
            await stream.write(b"as ever")
            assert await stream.read(100) == b"as ever"
            await stream.aclose()
        assert len(origin.requests) == 2
        assert secret.requests == []
        assert all(not name.startswith(b"cf-cloudflared") for request in origin.requests for name, _ in request.headers)
        assert agent.count("Updated to new configuration") == 0


@pytest.mark.parametrize("host", ["management.argotunnel.com", "management.fed.argotunnel.com"])
async def test_its_management_host_is_not_reached(site: Site, host: str) -> None:
    more = {"TUNNEL_MANAGEMENT_DIAGNOSTICS": "true"}
    async with Origin(Echo) as origin, site.edge() as edge, stock(site, edge, url=origin.url, links=1, **more) as agent:
        await agent.until_ready(1)
        response, _ = await site.ask(edge, host=host)
        assert (response.status, response.header(b"penstock-error")) == (404, b"tunnel_not_found")


async def _ask(transport: asyncio.Transport) -> bytes:
    """The whole of an answer that is no upgrade."""
    pipe = ByteStream.over(transport)
    await pipe.write(
        b"GET / HTTP/1.1\r\nHost: "
        + HOST.encode()
        + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    answer = b""
    async with asyncio.timeout(10):
        while data := await pipe.read(MIB):
            answer += data
    await pipe.aclose()
    return answer
