from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.running_up import Tunnel, tunnel_to

from penstock.client.control import ControlClient
from penstock.client.streams import TunnelStreams
from penstock.errors import CertificateError, ConfigError, TunnelError, TunnelErrorCode, UnavailableError
from penstock.secret import Secret
from penstock.tls import rules

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.schema.callers import Resolution

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def tunnel(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Tunnel]:
    async with tunnel_to(tmp_path_factory.mktemp("up")) as running:
        yield running


@pytest.fixture
async def streams(tunnel: Tunnel) -> AsyncGenerator[TunnelStreams]:
    streams = TunnelStreams(tunnel.access, connect_seconds=2)
    yield streams
    await streams.aclose()


@pytest.fixture
def host(tunnel: Tunnel) -> str:
    return f"echo.{tunnel.up.domain}"


async def told(streams: TunnelStreams, host: str, **changes: Any) -> Resolution:
    """What control says of the host, and `changes` as if it had said that too."""
    (await streams.open(host)).websocket.abort()
    known = streams._known[host]
    known.resolution = known.resolution.model_copy(update=changes)
    known.worked_at = None
    return known.resolution


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def test_a_stream_is_opened_and_secured_under_the_tunnels_own_ca(streams: TunnelStreams, host: str) -> None:
    stream = await (await streams.open(host.upper() + ":443")).start_tls()
    await stream.write(b"GET / HTTP/1.1\r\nhost: " + host.encode() + b"\r\nconnection: close\r\n\r\n")
    assert (await stream.read(65_536)).startswith(b"HTTP/1.1 404")  # the sample server has nothing at /
    assert stream.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    stream.abort()


@pytest.mark.parametrize("text", ["", "127.0.0.1", "[::1]", "a b", "ü.example", "-a.example", "a" * 64 + ".example"])
async def test_what_is_no_host_name_is_refused_before_anything_is_asked(streams: TunnelStreams, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await streams.open(text)
    assert caught.value.hint


async def test_control_is_asked_once_for_many_streams(streams: TunnelStreams, host: str) -> None:
    first = await streams.open(host)
    second = await streams.open(host)
    assert second.resolution is first.resolution
    for stream in (first, second):
        stream.websocket.abort()


async def test_an_edge_that_is_down_is_passed_over(streams: TunnelStreams, host: str) -> None:
    [edge] = (await told(streams, host)).edges
    dead = edge.model_copy(update={"port": closed_port()})
    await told(streams, host, edges=(dead, dead, dead, edge))
    for _ in range(8):  # whatever the order they are tried in
        (await streams.open(host)).websocket.abort()


async def test_when_no_edge_answers_one_is_named_and_control_is_asked_anew_next_time(streams: TunnelStreams, host: str) -> None:
    [edge] = (await told(streams, host)).edges
    port = closed_port()
    await told(streams, host, edges=(edge.model_copy(update={"port": port}),))
    with pytest.raises(UnavailableError, match=str(port)) as caught:
        await streams.open(host)
    assert caught.value.hint
    (await streams.open(host)).websocket.abort()  # control knows better than what was kept


async def test_a_tunnel_that_worked_a_moment_ago_is_looked_for_again_before_a_call_fails(
    streams: TunnelStreams, host: str
) -> None:
    [edge] = (await told(streams, host)).edges
    await told(streams, host, edges=(edge.model_copy(update={"port": closed_port()}),))
    streams._known[host].worked_at = asyncio.get_running_loop().time()
    async with asyncio.timeout(2):
        (await streams.open(host)).websocket.abort()


async def test_what_control_said_serves_while_control_is_away(streams: TunnelStreams, host: str) -> None:
    await told(streams, host)
    async with ControlClient(f"http://127.0.0.1:{closed_port()}", Secret("pst-key-none")) as away:
        known, streams._control = streams._control, away
        streams._known[host].until = 0.0  # a minute later
        (await streams.open(host)).websocket.abort()
        streams._known[host].worked_at = None
        streams._known[host].told_at -= 25 * 3600.0
        with pytest.raises(UnavailableError, match="nothing listens"):
            await streams.open(host)
        streams._control = known


async def test_an_edge_that_says_nothing_is_given_up_on_in_time(tunnel: Tunnel, host: str) -> None:
    streams = TunnelStreams(tunnel.access, connect_seconds=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        [edge] = (await told(streams, host)).edges
        await told(streams, host, edges=(edge.model_copy(update={"port": silent.getsockname()[1]}),))
        async with asyncio.timeout(5):
            with pytest.raises(UnavailableError):
                await streams.open(host)
    await streams.aclose()


async def test_an_edge_under_another_name_is_refused(streams: TunnelStreams, host: str) -> None:
    [edge] = (await told(streams, host)).edges
    await told(streams, host, edges=(edge.model_copy(update={"server_name": "other.edge.penstock.internal"}),))
    with pytest.raises(CertificateError) as caught:
        await streams.open(host)
    assert "edge" in caught.value.public


async def test_without_a_usable_trust_anchor_nothing_is_said_to_the_proxy(streams: TunnelStreams, host: str) -> None:
    await told(streams, host, trust_anchors=("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",))
    stream = await streams.open(host)
    with pytest.raises(CertificateError):
        await stream.start_tls()
    assert stream.websocket.is_closing()


async def test_an_unknown_host_is_not_found(streams: TunnelStreams) -> None:
    with pytest.raises(TunnelError) as caught:
        await streams.open("echo.zzzzzzzz.tunnel.penstock.internal")
    assert caught.value.code is TunnelErrorCode.TUNNEL_NOT_FOUND


async def test_a_look_at_the_other_end_is_judged_and_goes_no_further(streams: TunnelStreams, host: str) -> None:
    anchors = rules.usable_anchors((await told(streams, host)).trust_anchors, datetime.now(UTC))
    verdict = CertificateError("server-expired", "as if")

    def judge(leaf: bytes) -> CertificateError:
        rules.check_server_certificate(leaf, anchors, host, datetime.now(UTC))  # it is the real one that is looked at
        return verdict

    stream = await streams.open(host)
    assert await stream.inspect(judge) is verdict
    assert stream.websocket.is_closing()
