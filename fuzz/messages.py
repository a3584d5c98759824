"""Whole messages against `h11`: where we take one, a second parser takes it too, and sees it end at the same byte.

That is what smuggling needs to fail: two that disagree about where a message ends.
"""

from __future__ import annotations

from typing import Any

import h11
from hypothesis import strategies as st

from penstock.errors import TunnelError
from penstock.proxy.bodies import Body, BodyError, make_body
from penstock.proxy.heads import Framing, HeadError, parse_request, parse_response

_NASTY = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0",
    b"\x7f",
    b"\xff",
    b"chunked",
    b"\r\n\r\n",
    b"-",
    b"+",
]
_FRAMINGS = [
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 05",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"content-length: 3",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: \x0bchunked",
]
_OTHERS = [
    b"Connection: close",
    b"Connection: keep-alive, TE",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Trailer: X-T",
    b"X: a",
    b"X: \xff",
    b"Host: b",
    b" folded",
]
_BODIES = [
    b"hello",
    b"",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    b"00005\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"ffffffffffffffff\r\n",
]
_NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


@st.composite
def _mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Now and then something nasty put in, left out or doubled."""
    data = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from([*_NASTY, b""]))
        data = data[:at] + what + data[at + draw(st.integers(0, 2)) :]
    return data


def _messages(lines: list[bytes], always: list[bytes]) -> st.SearchStrategy[bytes]:
    headers = st.lists(st.sampled_from([*_FRAMINGS, *_FRAMINGS, *_OTHERS]), max_size=4)
    return st.builds(
        lambda line, more, body: b"\r\n".join([line, *always, *more, b"", b""]) + body + _NEXT,
        st.sampled_from(lines),
        headers,
        st.sampled_from(_BODIES),
    )


REQUESTS = _mutated(
    _messages(
        [b"POST /a HTTP/1.1", b"GET /a?b HTTP/1.1", b"HEAD / HTTP/1.1", b"POST /a HTTP/1.0", b"OPTIONS * HTTP/1.1"],
        [b"Host: a"],
    )
)
RESPONSES = _mutated(
    _messages([b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.0 200 OK", b"HTTP/1.1 404 ", b"HTTP/1.1 304 x"], [])
)


def request(data: bytes) -> None:
    """One request and what follows it."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return
    try:
        head = parse_request(data[:end], headers_most=50)
    except TunnelError:
        return
    body = _read(make_body(head.framing, head.length, head.trailers), data[end:])
    if body is None:
        return
    theirs = _by_h11(h11.Connection(h11.SERVER), data)
    assert (head.method, head.target) == (theirs.first.method, theirs.first.target)
    _agree(head.headers, body, theirs)


def response(data: bytes) -> None:
    """One answer to a GET and what follows it."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return
    try:
        head = parse_response(data[:end], headers_most=50, is_head_request=False)
    except HeadError:
        return
    if head.status < 200 or head.framing is Framing.CLOSE:
        return  # h11 wants to be told of the switch; and what ends with the connection has no end to differ about
    body = _read(make_body(head.framing, head.length, head.trailers), data[end:])
    if body is None:
        return
    asked = h11.Connection(h11.CLIENT)
    asked.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    asked.send(h11.EndOfMessage())
    theirs = _by_h11(asked, data)
    assert head.status == theirs.first.status_code
    _agree(head.headers, body, theirs)


class _Read:
    """What was read of one message."""

    def __init__(self, first: Any, payload: bytes, rest: bytes, *, is_over: bool) -> None:
        self.first = first
        self.payload = payload
        self.rest = rest
        self.is_over = is_over


def _read(body: Body, data: bytes) -> _Read | None:
    if body.is_over:
        return _Read(None, b"", data, is_over=True)
    try:
        payload = body.feed(data)
    except BodyError:
        return None
    return _Read(None, payload, body.rest, is_over=body.is_over)


def _by_h11(http: h11.Connection, data: bytes) -> _Read:
    http.receive_data(data)
    first = http.next_event()
    assert isinstance(first, h11.Request | h11.Response), f"h11 does not take it: {first!r}"
    payload = b""
    while isinstance(event := http.next_event(), h11.Data):
        payload += bytes(event.data)
    is_over = isinstance(event, h11.EndOfMessage)
    return _Read(first, payload, bytes(http.trailing_data[0]) if is_over else b"", is_over=is_over)


def _agree(headers: list[tuple[bytes, bytes]], ours: _Read, theirs: _Read) -> None:
    named = [(name.lower(), value) for name, value in headers]
    assert _merged(named) == _merged([(bytes(name), bytes(value)) for name, value in theirs.first.headers])
    assert ours.is_over == theirs.is_over
    assert ours.payload == theirs.payload
    assert ours.rest == theirs.rest


def _merged(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """In one spelling: h11 writes `chunked` small, and leaves out white space behind a value, which is no part of it."""
    return [(name, (value.lower() if name == b"transfer-encoding" else value).rstrip(b" \t")) for name, value in headers]
