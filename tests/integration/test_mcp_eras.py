"""Both eras of MCP through the whole chain, the official SDK at both ends; what arrives is looked at on the server's side."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp import types
from mcp.client.subscriptions import ToolsListChanged
from structlog.testing import capture_logs
from tests.support.mcp_servers import WITHIN, Recorder, Stage, fastmcp_server, sdk_server, serving
from tests.support.private_side import private_side

from penstock.client import Access, TunnelTransport, mcp_session
from penstock.client.streams import TunnelStream, TunnelStreams
from penstock.stack.routes import Route
from penstock.up.options import Options
from penstock.up.ports import choose_free
from penstock.up.program import running
from penstock.up.screen import Screen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from penstock.up.program import Up

pytestmark = pytest.mark.anyio

MODERN = "2026-07-28"
EVENTS = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@dataclass
class World:
    """A running chain with two servers of other people's behind it."""

    up: Up
    sdk: Recorder
    fast: Recorder
    direct: str
    """The SDK server's own address."""
    stage: Stage

    def url(self, route: str) -> str:
        return self.up.urls()[route]

    @property
    def access(self) -> Access:
        return self.up.access

    @property
    def manager(self) -> Access:
        return self.up.manager


@pytest.fixture(scope="module")
async def chain(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    stage = Stage()
    sdk = Recorder(sdk_server(stage).streamable_http_app())
    fast = Recorder(fastmcp_server().http_app())
    async with serving(sdk) as sdk_url, serving(fast) as fast_url:
        routes = (Route.parse(f"sdk={sdk_url}"), Route.parse(f"fast={fast_url}"))
        options = Options(folder=tmp_path_factory.mktemp("up"), routes=routes, ports=choose_free())
        async with running(options, Screen()) as up:
            yield World(up, sdk, fast, f"{sdk_url}/mcp", stage)


@pytest.fixture
def world(chain: World) -> Iterator[World]:
    """The chain as if nothing had happened yet."""
    for recorder in (chain.sdk, chain.fast):
        recorder.requests.clear()
    chain.stage.__init__()
    yield chain
    chain.stage.release.set()


def text_of(result: types.CallToolResult) -> str:
    assert not result.is_error
    [part] = result.content
    assert isinstance(part, types.TextContent)
    return part.text


# --- 2025: sessions -----------------------------------------------------------------------------------------------------


async def test_a_2025_session_lives_from_initialize_to_delete(world: World) -> None:
    async with mcp_session(world.url("sdk"), world.access, mode="legacy") as session:
        assert session.protocol_version == "2025-11-25"
        assert text_of(await session.call_tool("hello", {"name": "2025"})) == "Hello, 2025!"
        await world.sdk.first("GET")

    first, *rest = world.sdk.requests
    assert first.method == "POST"
    assert json.loads(first.body)["method"] == "initialize"
    assert first.header("mcp-session-id") is None
    assert {request.header("mcp-session-id") for request in rest} == {rest[0].header("mcp-session-id")}
    assert rest[0].header("mcp-session-id")
    assert {request.header("mcp-protocol-version") for request in rest} == {"2025-11-25"}
    assert {(request.method, request.status) for request in rest} == {
        ("POST", 202),
        ("POST", 200),
        ("GET", 200),
        ("DELETE", 200),
    }
    assert world.sdk.requests[-1].method == "DELETE"
    [call] = world.sdk.calls("tools/call")
    assert call.content_type.startswith("text/event-stream")


async def test_calls_of_a_2025_session_come_again_on_the_streams_they_had(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_stream = TunnelStreams.open

    async def counted(streams: TunnelStreams, host: str) -> TunnelStream:
        opened.append(host)
        return await open_stream(streams, host)

    monkeypatch.setattr(TunnelStreams, "open", counted)
    async with mcp_session(world.url("sdk"), world.access, mode="legacy") as session:
        for number in range(8):
            assert text_of(await session.call_tool("hello", {"name": str(number)})) == f"Hello, {number}!"
    # The standing GET has one; while a call's body still ends, the next may need another.
    assert len(opened) <= 4


async def test_a_standing_get_stream_delivers_what_the_server_says_between_calls(world: World) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with mcp_session(world.url("sdk"), world.access, mode="legacy", message_handler=heard.put) as session:
        await session.call_tool("hello", {"name": "you"})
        standing = await world.sdk.first("GET")
        assert standing.content_type.startswith("text/event-stream")
        assert world.stage.session is not None

        await world.stage.session.send_tool_list_changed()

        async with asyncio.timeout(WITHIN):
            assert isinstance(await heard.get(), types.ToolListChangedNotification)
        assert not standing.ended.is_set()
    async with asyncio.timeout(WITHIN):
        await standing.ended.wait()


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_the_first_event_of_a_slow_tool_arrives_while_it_runs(world: World, mode: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []
    was_running: list[bool] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        was_running.append(not world.stage.finished.is_set())
        world.stage.release.set()  # only now may the tool go on: had the first event been held back, nothing would come

    async with mcp_session(world.url("sdk"), world.access, mode=mode) as session, asyncio.timeout(WITHIN):
        result = await session.call_tool("slow", {"steps": 3}, progress_callback=on_progress)

    assert text_of(result) == "done"
    assert seen == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
    assert was_running[0]


async def test_a_notification_arrives_in_the_middle_of_a_2025_call(world: World) -> None:
    heard: asyncio.Queue[types.LoggingMessageNotificationParams] = asyncio.Queue()
    async with mcp_session(world.url("sdk"), world.access, mode="legacy", logging_callback=heard.put) as session:
        async with asyncio.timeout(WITHIN), asyncio.TaskGroup() as group:
            call = group.create_task(session.call_tool("announce", {"text": "half way"}))
            assert (await heard.get()).data == "half way"
            assert not call.done()
            world.stage.release.set()
        assert text_of(call.result()) == "announced"


async def test_the_server_may_ask_the_client_in_the_middle_of_a_2025_call(world: World) -> None:
    async def answer(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert params.message == "Sure?"
        return types.ElicitResult(action="accept", content={"sure": True})

    async with mcp_session(world.url("sdk"), world.access, mode="legacy", elicitation_callback=answer) as session:
        async with asyncio.timeout(WITHIN):
            assert text_of(await session.call_tool("ask")) == "accept: {'sure': True}"


async def test_two_2025_sessions_do_not_mix(world: World) -> None:
    async with (
        mcp_session(world.url("sdk"), world.access, mode="legacy") as one,
        mcp_session(world.url("sdk"), world.access, mode="legacy") as two,
    ):
        answers = await asyncio.gather(
            *(session.call_tool("hello", {"name": str(number)}) for number in range(5) for session in (one, two))
        )
    assert [text_of(answer) for answer in answers] == [f"Hello, {number}!" for number in range(5) for _ in range(2)]
    sessions = {request.header("mcp-session-id") for request in world.sdk.calls("tools/call")}
    assert len(sessions) == 2


# --- 2026-07-28: stateless ------------------------------------------------------------------------------------------------


async def test_the_stateless_era_is_found_and_spoken(world: World) -> None:
    async with mcp_session(world.url("sdk"), world.access) as session:
        assert session.protocol_version == MODERN
        assert text_of(await session.call_tool("hello", {"name": "2026"})) == "Hello, 2026!"

    assert [request.method for request in world.sdk.requests] == ["POST"] * len(world.sdk.requests)
    discover, *_ = world.sdk.requests
    [call] = world.sdk.calls("tools/call")
    assert discover.header("mcp-method") == "server/discover"
    assert (call.header("mcp-method"), call.header("mcp-name")) == ("tools/call", "hello")
    for request in world.sdk.requests:
        assert request.header("mcp-protocol-version") == MODERN
        assert request.header("mcp-session-id") is None


async def test_headers_and_body_arrive_as_they_left(world: World) -> None:
    headers = [
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "=?base64?aGVsbG8=?="),
        ("mcp-param-region", "=?base64?w7xiZXI=?="),
        ("mcp-param-unknown-to-anybody", 'a, "b" ;c=d'),
        ("authorization", "Bearer of.the-server's/own=="),
        ("last-event-id", "7-3"),
        ("origin", "http://127.0.0.1:1"),
        ("x-accel-buffering", "no"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("cookie", "a=1; b=2"),
    ]
    body = b'{"jsonrpc": "2.0",  "id": 1, "method": "tools/call", "params": {"\\u00fc": 1.50}}'
    async with httpx2.AsyncClient(transport=TunnelTransport(world.access)) as http:
        await http.post(world.url("sdk") + "?a=1&b=%2F%20&a=2", content=body, headers=headers)

    [arrived] = world.sdk.requests
    names = {name.encode() for name, _ in headers}
    assert [(name, value) for name, value in arrived.headers if name in names] == [
        (name.encode(), value.encode()) for name, value in headers
    ]
    assert bytes(arrived.body) == body
    assert (arrived.path, arrived.query) == ("/mcp", b"a=1&b=%2F%20&a=2")


async def test_a_subscription_delivers_and_closing_it_is_noticed_at_the_server(world: World) -> None:
    async with mcp_session(world.url("sdk"), world.access, mode=MODERN) as session:
        async with asyncio.timeout(WITHIN), session.listen(tools_list_changed=True) as subscription:
            await session.call_tool("change")
            assert await anext(subscription) == ToolsListChanged()
            [listening] = world.sdk.calls("subscriptions/listen")
            assert not listening.ended.is_set()
        async with asyncio.timeout(1):
            await listening.gone.wait()
        assert text_of(await session.call_tool("hello", {"name": "again"})) == "Hello, again!"


async def test_closing_the_stream_cancels_a_call_at_once(world: World) -> None:
    progressed = asyncio.Event()

    async def on_progress(*_: Any) -> None:
        progressed.set()

    async with mcp_session(world.url("sdk"), world.access, mode=MODERN) as session:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(session.call_tool("slow", {"steps": 2}, progress_callback=on_progress))
            async with asyncio.timeout(WITHIN):
                await progressed.wait()
            call.cancel()
        async with asyncio.timeout(1):
            await world.stage.cancelled.wait()
        assert not world.stage.finished.is_set()
        assert text_of(await session.call_tool("hello", {"name": "still"})) == "Hello, still!"


async def test_a_client_that_is_gone_cancels_its_call(world: World) -> None:
    """Not by the SDK's good manners: the whole transport is cut."""
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "slow",
            "arguments": {"steps": 2},
            "_meta": {
                "progressToken": "t",
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "0"},
            },
        },
    }
    headers = {**EVENTS, "mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "slow"}
    async with (
        httpx2.AsyncClient(transport=TunnelTransport(world.access)) as http,
        asyncio.timeout(WITHIN),
        http.stream("POST", world.url("sdk"), json=request, headers=headers) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert b'"step 1"' in await anext(response.aiter_bytes())
    async with asyncio.timeout(1):
        await world.stage.cancelled.wait()


# --- what eras are told apart by ------------------------------------------------------------------------------------------

REFUSED = {
    "another session": ("POST", {**EVENTS, "mcp-session-id": "nobody"}, {"jsonrpc": "2.0", "id": 1, "method": "ping"}),
    "no session": ("POST", EVENTS, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
    "not acceptable": ("POST", {"accept": "text/html"}, {"jsonrpc": "2.0", "id": 1, "method": "ping"}),
    "no method": (
        "POST",
        {**EVENTS, "mcp-protocol-version": MODERN, "mcp-method": "no/such"},
        {"jsonrpc": "2.0", "id": 1, "method": "no/such", "params": {}},
    ),
    "mismatch": (
        "POST",
        {**EVENTS, "mcp-protocol-version": MODERN, "mcp-method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}},
    ),
    "not allowed": ("PUT", {}, None),
    "stateless get": ("GET", {**EVENTS, "mcp-protocol-version": MODERN}, None),
    "stateless delete": ("DELETE", {"mcp-protocol-version": MODERN}, None),
    "foreign origin": ("POST", {**EVENTS, "origin": "https://evil.example"}, {"jsonrpc": "2.0", "id": 1, "method": "ping"}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_servers_own_refusal_is_the_same_as_without_the_tunnel(world: World, case: str) -> None:
    method, headers, body = REFUSED[case]

    async def ask(client: httpx2.AsyncClient, url: str) -> tuple[int, str | None, str | None, bytes]:
        answer = await client.request(method, url, headers=headers, json=body)
        return answer.status_code, answer.headers.get("content-type"), answer.headers.get("allow"), answer.content

    async with httpx2.AsyncClient() as plain, httpx2.AsyncClient(transport=TunnelTransport(world.access)) as tunnelled:
        expected = await ask(plain, world.direct)
        assert expected[0] >= 400
        assert await ask(tunnelled, world.url("sdk")) == expected


async def test_a_server_that_breaks_off_ends_the_clients_stream_at_once(world: World, tmp_path: Path) -> None:
    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n"
        )
        await writer.drain()
        writer.transport.abort()

    async with (
        await asyncio.start_server(breaks_off, "127.0.0.1", 0) as server,
        private_side(
            tmp_path / "side", world.manager, {"cut": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
        ) as side,
        httpx2.AsyncClient(transport=TunnelTransport(world.access)) as http,
        asyncio.timeout(WITHIN),
        http.stream("GET", f"https://cut.{side[0]}/") as response,
    ):
        received = response.aiter_bytes()
        assert await anext(received) == b"data: 1\n"
        with pytest.raises(httpx2.TransportError):
            await anext(received)


# --- fastmcp, and the SDK's Host check ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", MODERN)])
async def test_fastmcp_serves_both_eras(world: World, mode: str, version: str) -> None:
    async with mcp_session(world.url("fast"), world.access, mode=mode) as session, asyncio.timeout(WITHIN):
        assert session.protocol_version == version
        assert [tool.name for tool in (await session.list_tools()).tools] == ["hello"]
        assert text_of(await session.call_tool("hello", {"name": "you"})) == "Hello, you, from FastMCP!"
        if version != MODERN:
            await world.fast.first("GET")  # the client opens it beside the calls, which may be over before
    assert {request.method for request in world.fast.requests} == ({"POST"} if version == MODERN else {"POST", "GET", "DELETE"})


async def test_under_up_a_loopback_server_gets_the_host_it_knows_and_is_told_the_public_one(world: World) -> None:
    async with mcp_session(world.url("sdk"), world.access) as session:
        await session.list_tools()
    arrived = world.sdk.requests[0]
    assert f"http://{arrived.header('host')}/mcp" == world.direct
    assert arrived.header("x-forwarded-host") == httpx2.URL(world.url("sdk")).host
    assert arrived.header("x-forwarded-proto") == "https"


async def test_a_servers_421_passes_and_the_proxy_says_what_to_set(world: World, tmp_path: Path) -> None:
    upstream = world.direct.removesuffix("/mcp")
    routes = {"kept": upstream, "known": {"url": upstream, "host_header": "upstream"}}
    async with private_side(tmp_path / "side", world.manager, routes) as (domain, _):
        async with httpx2.AsyncClient(transport=TunnelTransport(world.access)) as http:
            with capture_logs() as log:
                answer = await http.post(f"https://kept.{domain}/mcp", json={}, headers=EVENTS)
        assert (answer.status_code, answer.text) == (421, "Invalid Host header")
        assert "penstock-error" not in answer.headers
        async with mcp_session(f"https://known.{domain}/mcp", world.access) as session:
            assert text_of(await session.call_tool("hello", {"name": "you"})) == "Hello, you!"
    [said] = [entry for entry in log if entry["event"] == "upstream answered 421"]
    assert said["hint"] == "it does not know this Host; set host_header: upstream on route kept"
