from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support.mcp_servers import WITHIN, serving
from tests.support.private_side import private_side
from tests.support.running_up import Tunnel, tunnel_to

from penstock.client import Access, TunnelTransport
from penstock.client.transport import TunnelRefusedError
from penstock.errors import CertificateError, ConfigError, IdentityError, TunnelError, TunnelErrorCode, UnavailableError
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


class Upstream:
    """An HTTP server that says its name, how many it serves at once, and what it was sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.expected = 0
        """How many requests to `/together` have to be there before any is answered."""
        self._present = 0
        self._together = asyncio.Event()
        self.begun = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        match scope["path"]:
            case "/together":
                self._present += 1
                if self._present >= self.expected:
                    self._together.set()
                await self._together.wait()
            case "/for-ever":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"begun", "more_body": True})
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.left.set()
                return
        headers = [(b"x-upstream", self.name.encode()), (b"x-method", scope["method"].encode())]
        of_another = scope["path"].startswith("/session-of-") and not scope["path"].endswith(self.name)
        await send({"type": "http.response.start", "status": 404 if of_another else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body or self.name.encode()})


@pytest.fixture(scope="module")
async def upstream() -> Upstream:
    return Upstream("here")


@pytest.fixture(scope="module")
async def tunnel(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> AsyncGenerator[Tunnel]:
    async with serving(upstream) as url, tunnel_to(tmp_path_factory.mktemp("up"), here=url) as running:
        yield running


def client(access: Access, **settings: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=TunnelTransport(access, **settings), timeout=WITHIN)


# --- pooling ------------------------------------------------------------------------------------------------------------


async def test_requests_one_after_the_other_share_one_stream(tunnel: Tunnel) -> None:
    before = await tunnel.streams_opened()
    async with client(tunnel.access) as http:
        for number in range(10):
            answer = await http.post(tunnel.url("here"), content=str(number))
            assert answer.text == str(number)
    assert await tunnel.streams_opened() - before == 1


async def test_twenty_requests_at_once_have_a_stream_each_and_leave_them_for_the_next_twenty(
    tunnel: Tunnel, upstream: Upstream
) -> None:
    before = await tunnel.streams_opened()
    upstream.expected = 20
    async with client(tunnel.access) as http:
        together = tunnel.url("here").replace("/mcp", "/together")
        answers = await asyncio.gather(*(http.post(together, content=str(number)) for number in range(20)))
        assert [answer.text for answer in answers] == [str(number) for number in range(20)]
        assert await tunnel.streams_opened() - before == 20
        await asyncio.gather(*(http.get(tunnel.url("here")) for _ in range(20)))
        assert await tunnel.streams_opened() - before == 20


async def test_more_requests_than_connections_wait_for_their_turn(tunnel: Tunnel) -> None:
    before = await tunnel.streams_opened()
    limits = httpx2.Limits(max_connections=2, max_keepalive_connections=2)
    async with client(tunnel.access, limits=limits) as http:
        answers = await asyncio.gather(*(http.get(tunnel.url("here")) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert await tunnel.streams_opened() - before == 2


async def test_an_idle_stream_that_the_proxy_ended_is_not_used_again(tunnel: Tunnel, tmp_path: Path) -> None:
    """httpcore2 asks an idle connection whether it is readable: an end must be seen, or the next request is lost."""
    side = tmp_path / "side"
    async with serving(Upstream("first")) as url, client(tunnel.access) as http:
        async with private_side(side, tunnel.manager, {"one": url}, shutdown_timeout=0.1) as (domain, _):
            assert (await http.get(f"https://one.{domain}/")).text == "first"
        async with private_side(side, tunnel.manager, {"one": url}) as (domain, _):
            assert (await http.post(f"https://one.{domain}/", content="not lost")).text == "not lost"


async def test_leaving_a_response_unread_reaches_the_upstream_at_once(tunnel: Tunnel, upstream: Upstream) -> None:
    async with client(tunnel.access) as http, asyncio.timeout(WITHIN):
        async with http.stream("GET", tunnel.url("here").replace("/mcp", "/for-ever")) as response:
            assert await anext(response.aiter_bytes()) == b"begun"
        async with asyncio.timeout(1):
            await upstream.left.wait()


async def test_a_body_of_megabytes_goes_both_ways(tunnel: Tunnel) -> None:
    sent = bytes(range(256)) * 4096 * 4
    async with client(tunnel.access) as http:
        assert (await http.post(tunnel.url("here"), content=sent)).content == sent


async def test_any_method_and_any_port_of_the_url_go_through(tunnel: Tunnel) -> None:
    async with client(tunnel.access) as http:
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert (await http.request(method, tunnel.url("here"))).headers["x-method"] == method


# --- what it refuses ----------------------------------------------------------------------------------------------------


async def test_only_https_urls_are_carried(tunnel: Tunnel) -> None:
    before = await tunnel.streams_opened()
    async with client(tunnel.access) as http:
        with pytest.raises(httpx2.UnsupportedProtocol, match="https URLs only"):
            await http.get(tunnel.url("here").replace("https:", "http:"))
    assert await tunnel.streams_opened() == before


async def refused(http: httpx2.AsyncClient, url: str) -> TunnelRefusedError:
    with pytest.raises(TunnelRefusedError) as caught:
        await http.get(url)
    assert isinstance(caught.value, httpx2.ConnectError)  # what retry policies look for
    assert caught.value.request.url == url
    assert caught.value.cause.hint
    assert caught.value.cause.hint in str(caught.value)
    return caught.value


async def test_an_unknown_tunnel_is_refused_with_its_name(tunnel: Tunnel) -> None:
    async with client(tunnel.access) as http:
        error = await refused(http, "https://echo.zzzzzzzz.tunnel.penstock.internal/mcp")
    assert isinstance(error.cause, TunnelError)
    assert error.cause.code is TunnelErrorCode.TUNNEL_NOT_FOUND
    assert "echo.zzzzzzzz.tunnel.penstock.internal" in str(error)


async def test_a_host_that_is_no_name_is_refused(tunnel: Tunnel) -> None:
    async with client(tunnel.access) as http:
        assert isinstance((await refused(http, "https://127.0.0.1/mcp")).cause, ConfigError)


async def test_an_api_key_that_is_not_accepted_is_named_as_the_cause_and_not_shown(tunnel: Tunnel) -> None:
    key = "pst-key-of-somebody-else"
    async with client(Access(tunnel.access.api_url, Secret(key))) as http:
        error = await refused(http, tunnel.url("here"))
    assert isinstance(error.cause, IdentityError)
    assert not isinstance(error.cause, CertificateError)
    assert "API key" in str(error)
    assert key not in f"{error!r} {error} {error.cause.detail}"


async def test_a_control_plane_that_is_down_is_named(tunnel: Tunnel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    async with client(Access(address, tunnel.access.api_key)) as http:
        error = await refused(http, tunnel.url("here"))
    assert isinstance(error.cause, UnavailableError)
    assert address in str(error)


async def test_a_route_that_does_not_exist_is_an_answer_and_not_an_exception(tunnel: Tunnel) -> None:
    async with client(tunnel.access) as http:
        answer = await http.get(f"https://nowhere.{tunnel.up.domain}/mcp")
    assert (answer.status_code, answer.headers["penstock-error"]) == (502, "no_route")
    assert answer.headers["content-type"].startswith("text/plain")


async def test_without_an_agent_the_tunnel_says_so(tunnel: Tunnel, tmp_path: Path) -> None:
    async with private_side(tmp_path / "side", tunnel.manager, {"one": "http://127.0.0.1:1"}) as (domain, _):
        pass
    async with client(tunnel.access) as http:
        error = await refused(http, f"https://one.{domain}/")
    assert isinstance(error.cause, TunnelError)
    assert error.cause.code is TunnelErrorCode.AGENT_UNAVAILABLE


async def test_an_upstream_that_is_down_is_told_without_its_address(tunnel: Tunnel, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    side = private_side(tmp_path / "side", tunnel.manager, {"one": f"http://127.0.0.1:{port}"})
    async with side as (domain, _), client(tunnel.access) as http:
        answer = await http.get(f"https://one.{domain}/")
    assert (answer.status_code, answer.headers["penstock-error"]) == (502, "upstream_unreachable")
    assert str(port) not in answer.text
    assert "127.0.0.1" not in answer.text


# --- replicas -----------------------------------------------------------------------------------------------------------


async def test_all_streams_of_one_transport_stay_on_one_replica_while_it_lives(tunnel: Tunnel, tmp_path: Path) -> None:
    """Two agents on one token, each with a proxy of its own: two replicas, told apart by what is behind them."""
    a, b = Upstream("a"), Upstream("b")
    a.expected = b.expected = 20
    side = tmp_path / "side"
    async with (
        serving(a) as url_a,
        serving(b) as url_b,
        private_side(side, tunnel.manager, {"one": url_a}) as (domain, _),
        contextlib.AsyncExitStack() as clients,
    ):
        url = f"https://one.{domain}/"
        async with private_side(side, tunnel.manager, {"one": url_b}):
            on: dict[str, httpx2.AsyncClient] = {}
            async with asyncio.timeout(WITHIN):
                while on.keys() != {"a", "b"}:  # each transport of its own comes to the one with the least to do
                    http = await clients.enter_async_context(client(tunnel.access))
                    on[(await http.get(url)).text] = http
            found = await tunnel.streams_open()
            before = await tunnel.streams_opened()
            for name, http in on.items():
                answers = await asyncio.gather(*(http.get(url + "together") for _ in range(20)))
                assert {answer.text for answer in answers} == {name}
            assert await tunnel.streams_opened() - before == 2 * 19
        async with asyncio.timeout(WITHIN):
            while await tunnel.streams_open() > 20 + found:  # the idle streams to b are cut with it
                await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(on["b"].get(url) for _ in range(20)))
        assert {answer.text for answer in answers} == {"a"}  # its replica is gone: it moves on, to the one that is left
        lost = await on["b"].get(url + "session-of-b")
        assert (lost.status_code, lost.headers["x-upstream"]) == (404, "a")  # the server's own word, as it said it
        assert "penstock-error" not in lost.headers
