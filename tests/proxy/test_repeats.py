from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proxy.rig import HOST, Link, get, post, rig
from tests.proxy.site import reloading

from penstock.errors import TunnelError
from penstock.proxy.headers import caller_response, upstream_request
from penstock.proxy.heads import Framing, parse_request, parse_response
from penstock.proxy.repeats import REMEMBERED_MOST, Repeat

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

HEADS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: b\r\nX: %b\r\n\r\n" % (b"x" * REMEMBERED_MOST),
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nAuthorization: Bearer t\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nPenstock-Error: x\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
]


@settings(max_examples=60)
@given(
    asked=st.lists(st.tuples(st.sampled_from(HEADS), st.integers(1, 3), st.sampled_from([None, b"h"]), st.booleans())),
    answered=st.lists(st.tuples(st.sampled_from(ANSWERS), st.booleans(), st.booleans())),
)
def test_what_is_remembered_is_what_the_function_says(
    asked: list[tuple[bytes, int, bytes | None, bool]], answered: list[tuple[bytes, bool, bool]]
) -> None:
    parse, rewrite = Repeat(parse_request), Repeat(upstream_request)
    for head, most, host, strips in asked:
        try:
            known = parse_request(head, headers_most=most)
        except TunnelError as exc:
            with pytest.raises(TunnelError, match=exc.public):
                parse(head, headers_most=most)
            continue
        assert parse(head, headers_most=most) == known
        assert rewrite(known, host, strips_token=strips) == upstream_request(known, host, strips_token=strips)
    read, answer = Repeat(parse_response), Repeat(caller_response)
    for head, is_head_request, closes in answered:
        response = parse_response(head, headers_most=9, is_head_request=is_head_request)
        assert read(head, headers_most=9, is_head_request=is_head_request) == response
        assert answer(response, Framing.CHUNKED, closes=closes) == caller_response(response, Framing.CHUNKED, closes=closes)


def test_the_same_is_read_once_and_what_is_large_is_not_kept() -> None:
    calls: list[bytes] = []

    def count(head: bytes) -> int:
        calls.append(head)
        return len(head)

    once = Repeat(count)
    small, large = b"s" * REMEMBERED_MOST, b"l" * (REMEMBERED_MOST + 1)
    for head in (small, bytes(bytearray(small)), large, large, small):
        assert once(head) == len(head)
    assert calls == [small, large, large, small]


@pytest.mark.parametrize("place", ["target", "header", "reason"])
def test_what_is_large_in_any_place_is_not_kept(place: str) -> None:
    much = b"a" * REMEMBERED_MOST
    kept: list[Repeat[..., object]] = []
    if place == "reason":
        read, answer = Repeat(parse_response), Repeat(caller_response)
        response = read(b"HTTP/1.1 200 %b\r\nContent-Length: 3\r\n\r\n" % much, headers_most=9, is_head_request=False)
        answer(response, Framing.LENGTH, closes=False)
        kept += [read, answer]
    else:
        line, field = (b"/" + much, b"") if place == "target" else (b"/", b"X: %b\r\n" % much)
        parse, rewrite = Repeat(parse_request), Repeat(upstream_request)
        rewrite(parse(b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (line, field), headers_most=9), None)
        kept += [parse, rewrite]
    assert not any(much in referent for one in kept for referent in _bytes_kept_by(one))


def _bytes_kept_by(thing: object) -> list[bytes]:
    found: list[bytes] = []
    for referent in gc.get_referents(thing):
        if isinstance(referent, bytes):
            found.append(referent)
        elif isinstance(referent, tuple | dict):
            found += _bytes_kept_by(referent)
    return found


async def test_each_request_of_a_stream_is_answered_by_its_own_head() -> None:
    async def framed_in_turns(link: Link) -> None:
        number = 0
        while True:
            await link.request()
            number += 1
            said = b"%d" % number
            if number % 3:  # twice the same head, then another one
                await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + said[-1:])
            else:
                await link.send(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n%b\r\n0\r\n\r\n" % said[-1:])

    async with rig(framed_in_turns) as r:
        link = await r.connect()
        for number in range(1, 10):
            await link.send(post(b"%d" % number) if number % 2 else get())
            answer = await link.response()
            assert (answer.status, answer.body) == (200 if number % 3 else 202, b"%d" % number)
        await link.send(get(host="other.ab12cd34.tunnel.example.com"))
        assert (await link.response()).status == 421


async def test_a_head_that_was_sent_before_is_written_as_the_settings_of_now_say(tmp_path: Path) -> None:
    async with reloading(tmp_path) as (s, change), s.caller() as stream:
        for _ in range(2):
            assert f"Host: {HOST}".encode() in (await stream.fetch(get())).body
        url = s.proxy.live.config.routes["echo"].url
        change(routes={"echo": {"url": url, "host_header": "inside.example"}})
        await s.until(lambda: s.events("config reloaded"))
        for _ in range(2):
            assert b"Host: inside.example" in (await stream.fetch(get())).body
