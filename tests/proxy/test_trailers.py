"""Trailers pass where they were announced and nobody could take them for a header that decides something."""

from __future__ import annotations

import pytest
from tests.proxy.rig import Link, get, rig
from tests.support.ca import HOST

from penstock.proxy.heads import parse_request

pytestmark = pytest.mark.anyio


def chunked(trailer: str, trailers: bytes) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n{trailer}\r\n"
    return head.encode() + b"1\r\nx\r\n0\r\n" + trailers + b"\r\n"


async def test_announced_trailers_of_a_request_pass() -> None:
    got: list[bytes] = []

    async def script(link: Link) -> None:
        got.append(await link.until(b"\r\n\r\n"))
        got.append(await link.until(b"0\r\n"))
        got.append(await link.until(b"\r\n\r\n"))
        await link.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with rig(script) as r:
        request = chunked("Trailer: X-Digest, Authorization\r\n", b"X-Digest:  abc \r\nX-Other: no\r\nAuthorization: evil\r\n")
        assert (await r.fetch(request)).status == 204
        assert b"\r\nTrailer: x-digest\r\n" in got[0]
        assert got[2] == b"X-Digest: abc\r\n\r\n"


async def test_announced_trailers_of_a_response_pass() -> None:
    heads: list[bytes] = []

    async def script(link: Link) -> None:
        heads.append((await link.request())[0])
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Digest\r\nTrailer: Set-Cookie\r\n\r\n"
        await link.send(head + b"1\r\nx\r\n0\r\nX-Digest: abc\r\nSet-Cookie: evil\r\nX-Other: no\r\n\r\n")

    async with rig(script) as r:
        link = await r.connect()
        await link.send(get(headers="TE: trailers\r\nConnection: TE\r\n"))
        assert b"Trailer: x-digest\r\n" in await link.until(b"\r\n\r\n")
        assert await link.until(b"\r\n\r\n") == b"1\r\nx\r\n0\r\nX-Digest: abc\r\n\r\n"
        assert b"\r\nConnection: TE\r\nTE: trailers\r\n" in heads[0]


@pytest.mark.parametrize(
    "name",
    [
        "Content-Length",
        "transfer-encoding",
        "HOST",
        "Mcp-Name",
        "Authorization",
        "Cookie",
        "X-Forwarded-Proto",
        "Origin",
        "a b",
    ],
)
def test_what_frames_routes_or_allows_is_never_a_trailer(name: str) -> None:
    head = parse_request(chunked(f"Trailer: {name}\r\n", b"").partition(b"1\r\nx")[0], headers_most=10)
    assert head.trailers == ()
