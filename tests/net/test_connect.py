from __future__ import annotations

import asyncio

import pytest
from tests.support import ca
from tests.support.httpproxy import HttpProxy as Played

from penstock.errors import ConfigError, UnavailableError
from penstock.net.connect import HttpProxy, dial_through, is_direct
from penstock.net.streams import ByteStream
from penstock.secret import Secret
from penstock.tls import contexts

OK = b"HTTP/1.1 200 OK\r\n\r\n"


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "is_tls"),
    [
        ("http://proxy.example.com:3128", "proxy.example.com", 3128, False),
        ("proxy.example.com:3128", "proxy.example.com", 3128, False),
        ("http://proxy.example.com", "proxy.example.com", 80, False),
        ("https://proxy.example.com", "proxy.example.com", 443, True),
        ("http://[fd00::1]:8080/", "fd00::1", 8080, False),
    ],
)
def test_a_proxy_is_named_as_for_curl(url: str, host: str, port: int, is_tls: bool) -> None:
    proxy = HttpProxy.parse(Secret(url))
    assert (proxy.host, proxy.port, proxy.is_tls) == (host, port, is_tls)


@pytest.mark.parametrize("url", ["socks5://proxy:1080", "http://", "http://proxy:port", "http://[::1"])
def test_what_is_no_http_proxy_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        HttpProxy.parse(Secret(url.replace("://", "://user:hunter2@")))
    assert "hunter2" not in f"{refused.value.public}{refused.value.detail}{refused.value.hint}"


def test_credentials_are_decoded_for_the_header_and_shown_nowhere() -> None:
    proxy = HttpProxy.parse(Secret("http://us%40er:p%3Ass@proxy:1"))
    assert proxy.authorization == Secret("Basic dXNAZXI6cDpzcw==")
    assert "dXNA" not in repr(proxy)
    assert str(proxy) == "proxy:1"


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("localhost", "", True),
        ("127.0.0.1", "", True),
        ("::1", "", True),
        ("::ffff:127.0.0.1", "", True),
        ("::ffff:10.0.0.1", "", False),
        ("edge.example.com", "", False),
        ("edge.example.com", "*", True),
        ("edge.example.com", "example.com", True),
        ("edge.example.com", ".example.com", True),
        ("edge.example.com", "*.example.com", True),
        ("EDGE.example.com.", "other.com, Example.COM", True),
        ("badexample.com", "example.com", False),
        ("edge.example.com", "edge.example.com:7844", True),
        ("edge.example.com", "edge.example.com:443", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "11.0.0.0/8", False),
        ("10.1.2.3", "example.com,,", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "[fd00::1]:7844", True),
    ],
)
def test_who_is_reached_without_it(host: str, no_proxy: str, direct: bool) -> None:
    assert is_direct(host, 7844, no_proxy) == direct


# --- dialling ---------------------------------------------------------------------------------------------------------


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()
    await writer.wait_closed()


@pytest.mark.anyio
@pytest.mark.parametrize("is_tls", [False, True])
async def test_bytes_go_through_a_proxy_that_looks_the_name_up_and_wants_credentials(is_tls: bool) -> None:
    authority = ca.ca("company-ca")
    inside = contexts.control_server(ca.server(authority, "localhost")) if is_tls else None
    outside = contexts.caller_inner([authority.certificate_pem], None) if is_tls else None
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    names = {"edge.test:7844": f"127.0.0.1:{server.sockets[0].getsockname()[1]}"}
    async with server, Played(names, credentials="Basic dTpw", context=inside) as played, asyncio.timeout(10):
        url = f"{'https' if is_tls else 'http'}://u:p@localhost:{played.port}"
        transport = await dial_through(HttpProxy.parse(Secret(url)), "edge.test", 7844, context=outside)
        stream = ByteStream.over(transport)
        await stream.write(b"hello")
        assert await stream.read(100) == b"hello"
        await stream.aclose()
        assert played.asked == ["edge.test:7844"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "it refuses to connect to edge.test:7844 (403)"),
        (b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", "it wants other credentials (407)"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "what it answers is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "what it answers is no HTTP"),
        (OK + b"too early", "it sent something before the edge could"),
        (b"HTTP/1.1 2", "it does not answer in time"),
        (b"", "it does not answer in time"),
    ],
)
async def test_a_proxy_that_does_not_connect_is_named_with_what_it_did(answer: bytes, said: str) -> None:
    async with Played(answer=answer) as played, asyncio.timeout(10):
        proxy = HttpProxy.parse(Secret(f"http://user:hunter2@127.0.0.1:{played.port}"))
        with pytest.raises(UnavailableError) as failed:
            await dial_through(proxy, "edge.test", 7844, timeout=0.5)
        assert failed.value.public == f"The HTTP proxy 127.0.0.1:{played.port} failed: {said}"
    error = failed.value
    assert "hunter2" not in f"{error.detail}{error.hint}"
    assert error.hint


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["b\xfccher.example.com", "a b", "a\r\nX: y"])
async def test_a_proxy_is_not_asked_for_a_name_that_none_can_have(name: str) -> None:
    async with Played() as played, asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="name is not known"):
            await dial_through(HttpProxy("127.0.0.1", played.port), name, 7844)
        assert played.asked == []


@pytest.mark.anyio
async def test_a_proxy_that_ends_early_or_is_not_there_is_named() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(leave, "127.0.0.1", 0)
    async with server, asyncio.timeout(10):
        for port in (server.sockets[0].getsockname()[1], 9):
            with pytest.raises(UnavailableError, match=f"The HTTP proxy 127.0.0.1:{port} failed"):
                await dial_through(HttpProxy("127.0.0.1", port), "edge.test", 7844, timeout=2.0)


@pytest.mark.anyio
async def test_a_tls_proxy_of_an_unknown_ca_is_shown_no_credentials() -> None:
    inside = contexts.control_server(ca.server(ca.ca("company-ca"), "localhost"))
    outside = contexts.caller_inner([ca.ca("another").certificate_pem], None)
    async with Played(context=inside) as played, asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="its certificate is not trusted"):
            await dial_through(HttpProxy("localhost", played.port, is_tls=True), "edge.test", 7844, context=outside)
        assert played.asked == []
