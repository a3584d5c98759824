from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError
from tests.support.mcp_servers import Recorder, Stage, sdk_server, serving
from tests.support.running_up import Tunnel, tunnel_to

from penstock.client import mcp_session
from penstock.client.answers import SessionClient
from penstock.client.control import ControlClient
from penstock.client.mcp import cause_of, first_of
from penstock.errors import ConfigError, PenstockError, TunnelError, TunnelErrorCode, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def server() -> Recorder:
    return Recorder(sdk_server(Stage()).streamable_http_app())


@pytest.fixture(scope="module")
async def tunnel(tmp_path_factory: pytest.TempPathFactory, server: Recorder) -> AsyncGenerator[Tunnel]:
    async with serving(server) as url, tunnel_to(tmp_path_factory.mktemp("up"), sdk=url) as running:
        yield running


async def test_five_lines_call_a_tool(tunnel: Tunnel) -> None:
    async with mcp_session(tunnel.url("sdk"), tunnel.access) as session:
        result = await session.call_tool("hello", {"name": "you"})
    assert result.content[0].text == "Hello, you!"


async def test_without_an_access_the_profile_of_up_is_found(tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PROFILE", str(tunnel.up.options.folder / "profile.json"))
    async with mcp_session(tunnel.url("sdk")) as session:
        assert {"hello", "slow"} <= {tool.name for tool in (await session.list_tools()).tools}


async def test_headers_and_auth_reach_the_server_and_nothing_of_the_tunnels_does(tunnel: Tunnel, server: Recorder) -> None:
    server.requests.clear()
    auth = httpx2.BasicAuth("me", "secret")
    async with mcp_session(tunnel.url("sdk"), tunnel.access, headers={"x-team": "blue"}, auth=auth) as session:
        await session.list_tools()
    for request in server.requests:
        assert request.header("x-team") == "blue"
        assert request.header("authorization") == "Basic bWU6c2VjcmV0"
        assert tunnel.access.api_key.reveal() not in str(request)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_tunnels_refusal_comes_without_the_sdks_groups_around_it(tunnel: Tunnel, mode: str) -> None:
    session = mcp_session("https://echo.zzzzzzzz.tunnel.penstock.internal/mcp", tunnel.access, mode=mode)
    with pytest.raises(TunnelError) as caught:
        await session.__aenter__()
    assert caught.value.code is TunnelErrorCode.TUNNEL_NOT_FOUND
    assert caught.value.hint


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_what_a_hop_inside_refuses_is_its_code_text_and_hint(tunnel: Tunnel, mode: str) -> None:
    session = mcp_session(tunnel.url("sdk").replace("//sdk.", "//nope."), tunnel.access, mode=mode)
    with pytest.raises(TunnelError) as caught:
        await session.__aenter__()
    assert caught.value.code is TunnelErrorCode.NO_ROUTE
    assert caught.value.public == "No route configured for host (no_route)"
    assert "routes" in (caught.value.hint or "")


async def test_a_server_that_went_is_told_by_the_tunnel_and_the_session_outlives_it(tmp_path: Path) -> None:
    recorder = Recorder(sdk_server(Stage()).streamable_http_app())
    async with contextlib.AsyncExitStack() as upstream:
        url = await upstream.enter_async_context(serving(recorder))

        async def call_thrice(tunnel: Tunnel) -> None:
            async with mcp_session(tunnel.url("sdk"), tunnel.access) as session:
                await session.call_tool("hello", {"name": "you"})
                await upstream.aclose()
                with pytest.raises(MCPError, match="is the MCP server running"):
                    await session.call_tool("hello", {"name": "you"})
                await session.call_tool("hello", {"name": "you"})

        async with tunnel_to(tmp_path, sdk=url) as tunnel:
            with pytest.raises(TunnelError) as caught:
                await call_thrice(tunnel)
    assert caught.value.code is TunnelErrorCode.UPSTREAM_UNREACHABLE
    assert caught.value.status == 502


async def test_a_server_that_does_not_know_its_host_name_is_told_by_the_setting_for_it(tmp_path: Path) -> None:
    async def misdirected(scope: Any, _receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 421, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with serving(misdirected) as url, tunnel_to(tmp_path, sdk=url) as tunnel:
        with pytest.raises(PenstockError, match="421") as caught:
            await mcp_session(tunnel.url("sdk"), tunnel.access).__aenter__()
    assert "host_header" in (caught.value.hint or "")


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_tunnel_cut_during_a_call_is_not_blamed_on_the_server(tmp_path: Path, is_streamed: bool) -> None:
    stage, begun = Stage(), asyncio.Event()
    recorder = Recorder(sdk_server(stage).streamable_http_app(json_response=not is_streamed))

    async def progress(*_: object) -> None:
        begun.set()

    async def archive(control: ControlClient) -> None:
        while not recorder.calls("tools/call"):
            await asyncio.sleep(0.01)
        if is_streamed:
            await begun.wait()  # part of the answer is here
        async for one in control.tunnels():
            await control.archive_tunnel(one.id)

    async def call(tunnel: Tunnel) -> None:
        async with (
            ControlClient(tunnel.manager.api_url, tunnel.manager.api_key) as control,
            mcp_session(tunnel.url("sdk"), tunnel.access) as session,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(archive(control))
            await session.call_tool("slow", {"steps": 2}, progress_callback=progress)

    async with serving(recorder) as url, tunnel_to(tmp_path, sdk=url) as tunnel:
        with pytest.raises(UnavailableError, match="the tunnel was cut during the call; it may have run") as caught:
            await call(tunnel)
        stage.release.set()
    assert caught.value.hint


def test_a_server_cannot_speak_for_the_tunnel() -> None:
    http = SessionClient()
    assert http.explain(MCPError(-32603, "x", {"penstock": "0" * 16})) is None
    assert http.explain(MCPError(-32000, "closed")) is None


@pytest.mark.parametrize("url", ["my", "http://my.example/mcp", "https://", "my.example.com"])
async def test_what_is_no_url_of_a_tunnel_is_said_before_anything_is_asked(tunnel: Tunnel, url: str) -> None:
    with pytest.raises(ConfigError, match="is not the URL") as caught:
        await mcp_session(url, tunnel.access).__aenter__()
    assert "https://" in (caught.value.hint or "")


async def test_a_port_is_refused_for_a_tunnel_has_none(tunnel: Tunnel) -> None:
    with pytest.raises(ConfigError, match="has no ports"):
        await mcp_session(tunnel.url("sdk").replace("/mcp", ":444/mcp"), tunnel.access).__aenter__()
    async with mcp_session(tunnel.url("sdk").replace("/mcp", ":443/mcp"), tunnel.access) as session:
        await session.list_tools()


async def test_what_the_server_refuses_stays_the_sdks_error(tunnel: Tunnel) -> None:
    async with mcp_session(tunnel.url("sdk"), tunnel.access) as session:
        assert (await session.call_tool("no such tool")).is_error
        with pytest.raises(MCPError):
            await session.read_resource("no://such")


async def test_leaving_the_session_leaves_nothing_behind(tunnel: Tunnel) -> None:
    tasks = asyncio.all_tasks()
    async with mcp_session(tunnel.url("sdk"), tunnel.access, mode="legacy") as session:
        await session.list_tools()
    async with asyncio.timeout(5):
        while await tunnel.streams_open():
            await asyncio.sleep(0.01)
    left = [task for task in asyncio.all_tasks() - tasks if "mcp" in repr(task.get_coro()) or "penstock/client" in repr(task)]
    assert left == []


async def test_without_the_sdk_it_says_what_to_install(tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.client", None)
    with pytest.raises(ConfigError) as caught:
        await mcp_session(tunnel.url("sdk"), tunnel.access).__aenter__()
    assert caught.value.hint == "in the clone it was installed from: pip install '.[mcp]'"


def test_the_cause_is_found_in_groups_causes_and_contexts() -> None:
    ours = PenstockError("ours")
    chained = RuntimeError("outer")
    chained.__cause__ = ValueError("middle")
    chained.__cause__.__context__ = ours
    assert cause_of(ExceptionGroup("g", [ValueError("first"), ExceptionGroup("h", [chained])])) is ours
    assert cause_of(ExceptionGroup("g", [ValueError("first")])) is None


def test_a_circle_of_causes_is_left() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert cause_of(one) is None


def test_what_a_person_is_told_is_the_first_of_a_group() -> None:
    inner = ValueError("inner")
    assert first_of(ExceptionGroup("g", [ExceptionGroup("h", [inner]), KeyError("later")])) is inner
    assert first_of(inner) is inner
