"""The whole proxy on a socket: upgrade, WebSocket, inner TLS, HTTP, a real upstream."""

from __future__ import annotations

import asyncio
import gc
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.proxy.rig import PATIENCE, Link, Upstream, get, hello, post
from tests.proxy.site import AUTHORITY, CALLERS, Site, required, settings, site, write
from tests.support import ca
from tests.support.ca import DOMAIN, HOST, WORKSPACE

from penstock.errors import CertificateError, ConfigError
from penstock.net.dial import dial_tcp
from penstock.net.streams import ByteStream
from penstock.net.upgrade import request_upgrade
from penstock.net.websocket import open_websocket
from penstock.proxy.server import Proxy
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from penstock.tls.certs import KeyPair

pytestmark = pytest.mark.anyio


async def test_two_requests_on_one_stream_reach_the_upstream(tmp_path: Path) -> None:
    async with site(tmp_path) as s, s.caller() as stream:
        assert (await stream.fetch(post(b"one"))).body.endswith(b"one")
        answer = await stream.fetch(post(b"x" * 300_000))
        assert answer.body.endswith(b"x" * 300_000)
        assert len(s.upstream.links) == 1
        await stream.aclose()
        await s.until(lambda: len(s.events("request ended")) == 2)
        assert {line["route"] for line in s.events("route configured")} == {"echo", "wiki"}
        assert len(s.events("request started")) == 2


async def test_an_unknown_host_gets_the_published_answer(tmp_path: Path) -> None:
    host = f"none.{DOMAIN}"
    async with site(tmp_path) as s, s.caller(host=host) as stream:
        answer = await stream.fetch(get(host=host))
        assert (answer.status, answer.body, answer.error) == (502, b"No route configured for host\n", b"no_route")
        assert answer.headers[b"content-type"].startswith(b"text/plain")
        assert s.events("no route for host")[0]["host"] == host


@pytest.mark.parametrize(
    ("upgrade", "server_name", "host", "status"),
    [
        (HOST, HOST, HOST, 200),
        (HOST, HOST, f"wiki.{DOMAIN}", 421),
        (HOST, f"wiki.{DOMAIN}", HOST, 421),
        (f"wiki.{DOMAIN}", HOST, HOST, 421),
        (DOMAIN, HOST, HOST, 200),
        (DOMAIN, f"wiki.{DOMAIN}", HOST, 421),
        (HOST, HOST, HOST.upper() + ".:443", 200),
    ],
)
async def test_upgrade_sni_and_host_name_one_route(
    tmp_path: Path, upgrade: str, server_name: str, host: str, status: int
) -> None:
    async with site(tmp_path) as s, s.caller(host=upgrade, server_name=server_name) as stream:
        answer = await stream.fetch(get(host=host))
        assert answer.status == status
        assert answer.error == (None if status == 200 else b"misdirected")


async def test_a_callers_refusal_reaches_the_log_as_an_alert(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        with pytest.raises(ssl.SSLError):
            async with s.caller(trusts=ca.ca("someone-else")):
                pass
        await s.until(lambda: s.events("tls handshake failed"))
        assert s.events("tls handshake failed")[0]["reason"] == "unknown certificate authority"


async def test_a_callers_rule_reaches_the_log_as_the_close_reason(tmp_path: Path) -> None:
    def refuse(_: ssl.SSLObject) -> None:
        raise CertificateError("server-signed-directly", "through an intermediate")

    async with site(tmp_path) as s:
        with pytest.raises(CertificateError):
            async with s.caller(check_peer=refuse, close_reason="server-signed-directly"):
                pass
        await s.until(lambda: s.events("tls handshake failed"))
        assert s.events("tls handshake failed")[0]["reason"] in {"server-signed-directly", "bad certificate"}


async def test_garbage_inside_the_websocket_is_no_handshake(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        lower = await dial_tcp("127.0.0.1", s.proxy.address.port)
        answer = await request_upgrade(lower, host=HOST)
        stream = ByteStream()
        open_websocket(lower, stream, client_side=True, initial=answer.rest)
        await stream.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await s.until(lambda: s.events("tls handshake failed"))
        assert s.events("tls handshake failed")[0]["reason"] == "not TLS"
        assert not s.upstream.links
        lower.abort()


async def test_a_plain_request_and_a_tls_hello_are_told_in_clear_text(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        for hello_, status in ((get(), b"426"), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400")):
            reader, writer = await asyncio.open_connection("127.0.0.1", s.proxy.address.port)
            writer.write(hello_)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b"penstock-error" in answer.lower()
            writer.close()
            await writer.wait_closed()


# --- who may call -----------------------------------------------------------------------------------------------------


async def test_a_caller_with_its_certificate_is_served_and_named(tmp_path: Path) -> None:
    async with site(tmp_path, **required(tmp_path, allow=[WORKSPACE])) as s:
        assert not s.events("callers are not checked")
        async with s.caller(identity=ca.caller(CALLERS)) as stream:
            assert (await stream.fetch(get())).status == 200
        await s.until(lambda: s.events("request ended"))
        assert s.events("request ended")[0]["caller"] == ca.CALLER


def nobody() -> None:
    return None


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (nobody, "caller certificate missing"),
        (lambda: ca.caller(ca.ca("another-ca")), "caller certificate refused"),
        (lambda: ca.caller(CALLERS, workspace_id="wrkspc_01OtherWorkspace"), "caller-identity"),
        (
            lambda: ca.caller(CALLERS, validity=ca.valid(ca.EXPIRED[0], starts_in=ca.EXPIRED[1])),
            "caller certificate refused",
        ),
        (lambda: ca.server(CALLERS), "caller certificate refused"),
    ],
)
async def test_anybody_else_gets_nowhere(tmp_path: Path, identity: Callable[[], KeyPair | None], reason: str) -> None:
    async with site(tmp_path, **required(tmp_path, allow=[WORKSPACE])) as s:
        # TLS 1.3: a server refuses after its client is done, so the refusal may come with the first read.
        with pytest.raises((ssl.SSLError, OSError)):
            async with s.caller(identity=identity()) as stream:
                await stream.fetch(get())
        await s.until(lambda: s.events("tls handshake failed"))
        assert s.events("tls handshake failed")[0]["reason"] == reason
        assert not s.upstream.links
        assert not s.events("request started")


async def test_request_mode_takes_none_but_no_wrong_one(tmp_path: Path) -> None:
    async with site(tmp_path, **required(tmp_path, mode="request", allow=[WORKSPACE])) as s:
        async with s.caller() as stream:
            assert (await stream.fetch(get())).status == 200
        with pytest.raises((ssl.SSLError, OSError)):
            async with s.caller(identity=ca.caller(CALLERS, workspace_id="wrkspc_01OtherWorkspace")) as stream:
                await stream.fetch(get())


async def test_a_published_configuration_is_warned_that_callers_are_not_checked(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        assert "callers.mode: require" in s.events("callers are not checked")[0]["hint"]


# --- upstreams over TLS -----------------------------------------------------------------------------------------------

UPSTREAM_CA = ca.ca("upstream-ca")


@asynccontextmanager
async def tls_site(folder: Path, pair: KeyPair | None, **upstream_tls: Any) -> AsyncGenerator[Site]:
    """An `https` route to a server; without a pair it speaks plain HTTP."""
    if pair is None:
        server = await asyncio.start_server(_refuse, "127.0.0.1", 0)
    else:
        server = await asyncio.start_server(_serve, "127.0.0.1", 0, ssl=contexts.control_server(pair))
    port = server.sockets[0].getsockname()[1]
    upstream = {"allowed_ips": ["127.0.0.0/8"], "tls": upstream_tls}
    with capture_logs() as log:
        config = settings(folder, f"https://localhost:{port}", upstream=upstream)
        proxy = Proxy(config)
        await proxy.start()
        try:
            yield Site(proxy, Upstream(hello), log)
        finally:
            await proxy.stop()
            server.close()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a plain HTTP server says to a TLS hello."""
    await reader.read(1000)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    link = Link(reader, writer)
    try:
        while True:
            await link.request()
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def test_an_upstream_over_tls_is_reached_with_its_own_ca(tmp_path: Path) -> None:
    ca_file = write(tmp_path, "upstream.crt", UPSTREAM_CA.certificate_pem)
    async with tls_site(tmp_path, ca.server(UPSTREAM_CA, "localhost"), ca_file=str(ca_file)) as s, s.caller() as stream:
        for _ in range(2):
            assert (await stream.fetch(post(b"abc"))).body == b"ok"


@pytest.mark.parametrize(
    ("pair", "trusted", "reason"),
    [
        (lambda: ca.server(UPSTREAM_CA, "other.internal"), True, "hostname mismatch"),
        (
            lambda: ca.server(UPSTREAM_CA, "localhost", validity=ca.valid(ca.EXPIRED[0], starts_in=ca.EXPIRED[1])),
            True,
            "certificate has expired",
        ),
        (lambda: ca.server(ca.ca("foreign"), "localhost"), True, "unable to get local issuer"),
        (lambda: ca.server(UPSTREAM_CA, "localhost"), False, "unable to get local issuer"),
    ],
)
async def test_an_upstream_that_is_not_trusted_is_refused_with_the_reason(
    tmp_path: Path, pair: Callable[[], KeyPair], trusted: bool, reason: str
) -> None:
    tls = {"ca_file": str(write(tmp_path, "upstream.crt", UPSTREAM_CA.certificate_pem))} if trusted else {}
    async with tls_site(tmp_path, pair(), **tls) as s, s.caller() as stream:
        answer = await stream.fetch(get())
        assert (answer.status, answer.error) == (502, b"upstream_tls")
        assert b"127.0.0.1" not in answer.body
        assert reason in s.events("upstream failed")[0]["error"].lower()


async def test_an_upstream_that_speaks_no_tls_is_told_apart_from_one_that_is_not_trusted(tmp_path: Path) -> None:
    async with tls_site(tmp_path, None) as s, s.caller() as stream:
        answer = await stream.fetch(get())
        assert (answer.status, answer.error) == (502, b"upstream_tls")
        assert b"does not speak TLS" in answer.body
        assert "http://" in s.events("upstream failed")[0]["hint"]


# --- limits, start and stop -------------------------------------------------------------------------------------------


async def test_streams_over_the_limit_are_refused_before_they_cost_a_handshake(tmp_path: Path) -> None:
    async with site(tmp_path, limits={"streams": 1}) as s, s.caller() as stream:
        assert (await stream.fetch(get())).status == 200
        lower = await dial_tcp("127.0.0.1", s.proxy.address.port)
        answer = await request_upgrade(lower, host=HOST)
        assert answer.status == 429
        assert (await stream.fetch(get())).status == 200
        lower.abort()


async def test_a_handshake_that_stalls_is_closed_in_time(tmp_path: Path) -> None:
    async with site(tmp_path, limits={"handshake_timeout": "100ms"}) as s:
        lower = await dial_tcp("127.0.0.1", s.proxy.address.port)
        answer = await request_upgrade(lower, host=HOST)
        open_websocket(lower, ByteStream(), client_side=True, initial=answer.rest)
        await s.until(lambda: s.events("tls handshake failed"))
        assert s.events("tls handshake failed")[0]["reason"] == "timed out"
        lower.abort()


async def test_stopping_lets_a_call_finish_and_tells_idle_streams_with_1001(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(link: Link) -> None:
        await link.request()
        await release.wait()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await link.read()

    async with site(tmp_path, slow) as s, s.caller() as idle, s.caller() as busy:
        await busy.send(get())
        await asyncio.wait_for(s.upstream.arrived.wait(), PATIENCE)
        address = s.proxy.address
        stopping = asyncio.get_running_loop().create_task(s.proxy.stop())
        with pytest.raises(ssl.SSLError):
            await idle.read()
        assert (idle.close_code, idle.close_reason) == (1001, "going away")
        with pytest.raises(Exception, match="refused"):
            await dial_tcp(address.host, address.port)
        release.set()
        answer = await busy.response()
        assert (answer.body, answer.headers[b"connection"]) == (b"ok", b"close")
        await asyncio.wait_for(stopping, PATIENCE)


async def test_stopping_cuts_what_goes_on_past_the_time(tmp_path: Path) -> None:
    async def endless(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n.\r\n")
        await link.read()

    async with site(tmp_path, endless, shutdown_timeout="100ms") as s, s.caller() as stream:
        await stream.send(get())
        await stream.read()
        await asyncio.wait_for(s.proxy.stop(), PATIENCE)
        assert s.events("streams cut")[0]["count"] == 1
        await s.until(lambda: s.upstream.running == 0)


async def test_a_cut_body_ends_the_stream_uncleanly(tmp_path: Path) -> None:
    async def half(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    async with site(tmp_path, half) as s, s.caller() as stream:
        await stream.send(get())
        got = bytearray()
        with pytest.raises(OSError, match="1011"):
            await stream.rest(got)
        assert got.endswith(b"half")
        assert stream.close_code == 1011


async def test_a_caller_that_is_cut_ends_the_upstream_at_once(tmp_path: Path) -> None:
    async def standing(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n.\r\n")
        while await link.read():
            pass

    async with site(tmp_path, standing) as s, s.caller() as stream:
        await stream.send(get())
        await stream.read()
        stream.cut()
        async with asyncio.timeout(0.5):
            await s.until(lambda: s.upstream.running == 0)


async def test_health_and_metrics_are_on_a_port_of_their_own(tmp_path: Path) -> None:
    async with site(tmp_path) as s, s.caller() as stream:
        await stream.fetch(get())
        address = s.proxy.admin_address
        assert address is not None
        pages = {}
        for path in ("/healthz", "/readyz", "/metrics"):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            pages[path] = await asyncio.wait_for(reader.read(-1), PATIENCE)
            writer.close()
            await writer.wait_closed()
        assert b" 200 " in pages["/healthz"]
        assert b" 200 " in pages["/readyz"]
        assert b'penstock_proxy_requests_total{route="echo",status="200"} 1.0' in pages["/metrics"]
        assert b"penstock_proxy_streams 1.0" in pages["/metrics"]


async def test_an_unreadable_key_has_the_published_words(tmp_path: Path) -> None:
    config = settings(tmp_path, "http://a:1")
    config.tls.key_file.unlink()
    with pytest.raises(ConfigError) as caught:
        await Proxy(config).start()
    assert caught.value.public == f"tls.key_file: open {config.tls.key_file}: no such file or directory"


async def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path, "http://a:1")
    write(tmp_path, "tls.key", ca.server(AUTHORITY).key_pem.reveal())
    proxy = Proxy(config)
    with capture_logs() as log:
        with pytest.raises(ConfigError, match="do not belong together") as caught:
            await proxy.start()
        await proxy.stop()
    assert f"{config.tls.cert_file} and {config.tls.key_file}: " in str(caught.value.detail)
    assert log == [], "what never ran does not stop"


async def test_a_key_everybody_can_read_is_warned_about_and_used(tmp_path: Path) -> None:
    config = settings(tmp_path, "http://a:1")
    config.tls.key_file.chmod(0o644)
    with capture_logs() as log:
        proxy = Proxy(config)
        await proxy.start()
        await proxy.stop()
    assert any(line["event"] == "private key is readable by everybody" for line in log)


async def test_a_busy_port_is_one_clear_error(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        config = settings(tmp_path, "http://a:1", listen_addr=str(s.proxy.address))
        other = Proxy(config)
        with pytest.raises(ConfigError, match="busy"):
            await other.start()
        await other.stop()


async def test_nothing_of_a_stream_waits_for_the_garbage_collector(tmp_path: Path) -> None:
    kinds = {"Pipeline", "Exchange", "Deadline", "UpgradeRequest", "UpgradeListener", "NamedSSLObject"}

    def alive() -> list[str]:
        return [type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in kinds]

    async with site(tmp_path) as s:
        gc.collect()
        gc.disable()
        try:
            async with s.caller() as stream:
                await stream.fetch(get())
                assert set(alive()) >= {"Pipeline", "Deadline", "NamedSSLObject"}
                await stream.aclose()
            with pytest.raises(ssl.SSLError):
                async with s.caller(trusts=ca.ca("someone-else")):
                    pass
            await s.until(lambda: s.events("tls handshake failed") and not alive())
        finally:
            gc.enable()
