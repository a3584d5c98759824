from __future__ import annotations

import asyncio
import resource
import signal
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support import ca
from tests.support.control import make_config

from penstock.config.types import HostPort
from penstock.control import serving
from penstock.control.server import Control
from penstock.control.service.bootstrap import initialize
from penstock.control.serving import HttpServer
from penstock.errors import ConfigError
from penstock.net.dial import dial_tcp
from penstock.net.streams import ByteStream
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.control import Api

pytestmark = pytest.mark.anyio


async def test_it_takes_no_signals(start_api: Callable[..., Any]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await start_api()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_it_starts_in_under_a_second(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api()
    await api.control.stop()
    took: list[float] = []
    for _ in range(3):  # the machine may be at something else
        began = time.perf_counter()
        again = Control(api.config)
        await again.start()
        took.append(time.perf_counter() - began)
        await again.stop()
    assert min(took) < 1, took


async def test_several_run_in_one_process_apart_from_each_other(start_api: Callable[..., Any]) -> None:
    first: Api = await start_api("first")
    second: Api = await start_api("second")
    tunnel = await first.tunnel()
    assert (await second.http.get(f"/v1/tunnels/{tunnel['id']}")).status_code == 404
    headers = second.bearing(first.initial.api_key)
    assert (await second.http.get("/v1/tunnels", headers=headers)).status_code == 401


async def test_two_on_one_file_hold_the_limit_and_lose_nothing(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits={"tunnels_per_organization": 25})
    twin = Control(api.config)
    await twin.start()
    try:
        urls = [api.control.url, twin.url]
        responses = await asyncio.gather(
            *(api.http.post(f"{urls[number % 2]}/v1/tunnels", json={}, timeout=40) for number in range(60))
        )
        made = {response.json()["id"] for response in responses if response.status_code == 200}
        assert len(made) == 25
        assert {response.status_code for response in responses} == {200, 400}
        for url in urls:
            listed = (await api.http.get(f"{url}/v1/tunnels?limit=100")).json()["data"]
            assert {tunnel["id"] for tunnel in listed} == made
    finally:
        await twin.stop()


async def test_what_was_made_is_there_after_a_restart(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api()
    tunnel = await api.tunnel()
    token = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")).json()
    await api.control.stop()
    again = Control(api.config)
    await again.start()
    try:
        revealed = await api.http.post(f"{again.url}/v1/tunnels/{tunnel['id']}/reveal_token")
        assert revealed.json() == token
    finally:
        await again.stop()


async def test_a_busy_port_is_one_clear_error_and_leaves_nothing_open(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api()
    config = api.config.model_copy(update={"listen_addr": api.control.address})
    with pytest.raises(ConfigError, match="busy"):
        await Control(config).start()


async def test_it_serves_tls_itself(start_api: Callable[..., Any], tmp_path: Path) -> None:
    authority = ca.ca()
    pair = ca.server(authority, "localhost")
    (tmp_path / "tls.crt").write_text(pair.certificate_pem)
    (tmp_path / "tls.key").write_text(pair.key_pem.reveal())
    (tmp_path / "ca.crt").write_text(authority.certificate_pem)
    files = {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    api: Api = await start_api(tls=files)
    assert api.control.url.startswith("https://")
    url = f"https://localhost:{api.control.address.port}/healthz"
    async with httpx2.AsyncClient(verify=contexts.control_client(tmp_path / "ca.crt"), trust_env=False) as client:
        assert (await client.get(url)).text == "ok\n"


async def test_a_key_of_another_certificate_is_refused_at_start(start_api: Callable[..., Any], tmp_path: Path) -> None:
    api: Api = await start_api()
    pair = ca.server(ca.ca(), "localhost")
    (tmp_path / "tls.crt").write_text(pair.certificate_pem)
    (tmp_path / "tls.key").write_text(certs.key_to_pem(certs.make_ec_key()).reveal())
    files = {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    with pytest.raises(ConfigError, match="do not belong together"):
        await Control(make_config(api.config.data_dir, tls=files)).start()


async def test_it_says_that_it_lives_and_is_ready_on_both_ports(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(admin_addr="127.0.0.1:0")
    admin = f"http://{api.control.admin_address}"
    for base in (api.control.url, admin):
        assert (await api.http.get(f"{base}/healthz")).text == "ok\n"
        assert (await api.http.get(f"{base}/readyz")).text == "ready\n"
    await api.tunnel()
    metrics = (await api.http.get(f"{admin}/metrics")).text
    assert 'penstock_control_requests_total{route="/v1/tunnels",status="200"} 1.0' in metrics


async def test_a_stop_cuts_what_does_not_end_in_time(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(shutdown_timeout=0.2)
    address = (api.control.address.host, api.control.address.port)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"POST /v1/tunnels HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
    await writer.drain()
    async with asyncio.timeout(5):
        while api.control._metrics.running._value.get() < 1:
            await asyncio.sleep(0)
        await api.control.stop()
        await api.control.stop()
        assert await reader.read(-1) == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    writer.close()


async def test_a_request_whose_client_has_left_still_ends_by_itself() -> None:
    asked, go = asyncio.Event(), asyncio.Event()
    ends: list[str] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        asked.set()
        try:
            await go.wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        ends.append("by itself")

    server = HttpServer(app)
    await server.start(HostPort("127.0.0.1", 0), None)
    client = ByteStream.over(await dial_tcp("127.0.0.1", server.address.port))
    async with asyncio.timeout(10):
        await client.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        client.abort()
        while server._state.connections:
            await asyncio.sleep(0.01)
        go.set()
        await server.stop(5)
    assert ends == ["by itself"]


async def test_plain_http_on_the_tls_port_gets_nowhere(start_api: Callable[..., Any], tmp_path: Path) -> None:
    pair = ca.server(ca.ca(), "localhost")
    (tmp_path / "pair.pem").write_text(f"{pair.certificate_pem}{pair.key_pem.reveal()}")
    files = {"cert_file": str(tmp_path / "pair.pem"), "key_file": str(tmp_path / "pair.pem")}
    api: Api = await start_api(tls=files, shutdown_timeout=0.1)
    with pytest.raises((httpx2.HTTPError, ssl.SSLError)):
        await api.http.get(f"http://127.0.0.1:{api.control.address.port}/healthz")


async def test_whoever_does_not_read_the_answer_loses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "READ_SECONDS", 0.05)
    lost = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        lost.set()

    server = HttpServer(app)
    await server.start(HostPort("127.0.0.1", 0), None)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((server.address.host, server.address.port))
        reader.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(10):
            await lost.wait()
    await server.stop(1)


async def test_connections_that_never_finish_their_handshake_are_bounded_and_keep_nobody_out(
    start_api: Callable[..., Any], tmp_path: Path
) -> None:
    authority = ca.ca()
    pair = ca.server(authority, "localhost")
    (tmp_path / "tls.crt").write_text(pair.certificate_pem)
    (tmp_path / "tls.key").write_text(pair.key_pem.reveal())
    (tmp_path / "ca.crt").write_text(authority.certificate_pem)
    files = {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    api: Api = await start_api(tls=files, limits={"connections": 20})
    silent = [await asyncio.open_connection(api.control.address.host, api.control.address.port) for _ in range(60)]
    try:
        ended = 0
        async with asyncio.timeout(5):  # before any of them has sat out its handshake's time
            while ended < 40:
                await asyncio.sleep(0.01)
                ended = sum(reader.at_eof() or reader.exception() is not None for reader, _ in silent)
        context = contexts.control_client(tmp_path / "ca.crt")
        async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
            assert (await http.get(f"https://localhost:{api.control.address.port}/healthz")).status_code == 200
    finally:
        for _, writer in silent:
            writer.close()


async def test_it_raises_the_limit_of_open_files_to_what_it_serves(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    config = make_config(tmp_path / "control")
    await initialize(config)
    control = Control(config)
    try:
        await control.start()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(2 * config.limits.connections, before[1])
    finally:
        await control.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
