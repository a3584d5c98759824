from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.proxy.events import KEEPALIVE, EventStream, is_event_stream, is_standing
from penstock.proxy.heads import parse_request, parse_response


@pytest.mark.parametrize(
    ("said", "is_boundary"),
    [
        ([], True),
        ([b"data: 1\n\n"], True),
        ([b"data: 1\r\n\r\n"], True),
        ([b"data: 1\n", b"\n"], True),
        ([b"data: 1\r", b"\n", b"\r", b"\n"], True),
        ([b"data: 1\n"], False),
        ([b"data: 1\n\nd"], False),
        ([b"data: 1\r\n\r"], False),
        ([b":\n"], False),
    ],
)
def test_a_boundary_is_where_an_event_has_ended(said: list[bytes], is_boundary: bool) -> None:
    stream = EventStream()
    for piece in said:
        stream.feed(piece)
    assert stream.is_at_boundary is is_boundary


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"\n\n"]), max_size=12), st.integers(0, 24))
def test_the_rest_of_an_event_ends_where_the_first_boundary_is(tokens: list[bytes], cut: int) -> None:
    said = b"data" + b"".join(tokens)
    before, after = said[: 4 + cut], said[4 + cut :]
    stream = EventStream()
    stream.feed(before)
    if stream.is_at_boundary:
        return  # ended before
    whole = [end for end in range(len(after) + 1) if (before + after[:end]).endswith((b"\n\n", b"\n\r\n"))]
    assert stream.rest_of_event(after) == (whole[0] if whole else None)


def test_a_comment_leaves_a_boundary_one() -> None:
    stream = EventStream()
    stream.feed(KEEPALIVE)
    assert stream.is_at_boundary


@pytest.mark.parametrize(
    ("headers", "is_one"),
    [
        (b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked", True),
        (b"content-type: Text/Event-Stream; charset=utf-8", True),
        (b"Content-Type: text/event-stream\r\nContent-Length: 5", False),
        (b"Content-Type: text/event-stream\r\nContent-Encoding: gzip", False),
        (b"Content-Type: text/event-streams", False),
        (b"Content-Type: application/json", False),
        (b"X: y", False),
    ],
)
def test_an_event_stream_is_known_by_its_type_and_an_open_end(headers: bytes, is_one: bool) -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n", headers_most=10, is_head_request=False)
    assert is_event_stream(head) is is_one


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        (b"GET /mcp HTTP/1.1\r\nHost: h", True),
        (b"POST /mcp HTTP/1.1\r\nHost: h\r\nmcp-method: subscriptions/listen", True),
        (b"POST /mcp HTTP/1.1\r\nHost: h\r\nMcp-Method: tools/call", False),
    ],
)
def test_standing_streams_are_gets_and_subscriptions(line: bytes, is_one: bool) -> None:
    head = parse_request(line + b"\r\n\r\n", headers_most=10)
    assert is_standing(head.method, head.fields) is is_one
