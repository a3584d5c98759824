from __future__ import annotations

import contextlib

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.proxy.heads import Framing, HeadError, check_beginning, parse_request, parse_response


def request(line: bytes = b"GET / HTTP/1.1", *headers: bytes, host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


def refusal(head: bytes, headers_most: int = 100) -> TunnelErrorCode:
    with pytest.raises(TunnelError) as caught:
        parse_request(head, headers_most=headers_most)
    return caught.value.code


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/2.0",
        b"GET / HTTP/3.0",
        b"GET / HTTP/0.9",
        b"GET / HTTP/1.2",
        b"GET / HTTP/1.11",
        b"GET / HTTP/01.1",
        b"GET / http/1.1",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /\0 HTTP/1.1",
        b"get / HTTP/1.1",
        b"BREW / HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"TRACE / HTTP/1.1",
        b"CONNECT a:443 HTTP/1.1",
        b"GET http://a/ HTTP/1.1",
        b"GET https://other/ HTTP/1.1",
        b"GET a:443 HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET a HTTP/1.1",
        b"GET ?a HTTP/1.1",
        b"\r\nGET / HTTP/1.1",
        b"",
    ],
)
def test_a_request_line_that_could_be_read_otherwise_is_refused(line: bytes) -> None:
    assert refusal(request(line)) is TunnelErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    "head",
    [
        request(host=b""),
        request(b"GET / HTTP/1.0", host=b""),
        request(b"GET / HTTP/1.1", b"Host: b"),
        request(b"GET / HTTP/1.1", b"host: a"),
        request(host=b"Host:\r\n"),
        request(host=b"Host: a b\r\n"),
        request(host=b"Host: a/b\r\n"),
        request(host=b"Host: u@a\r\n"),
        request(host=b"Host : a\r\n"),
        request(host=b" Host: a\r\n"),
        request(b"POST / HTTP/1.1", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
        request(b"POST / HTTP/1.1", b"Content-Length: 5", b"Content-Length: 5"),
        request(b"POST / HTTP/1.1", b"Content-Length: 5", b"Content-Length: 6"),
        request(b"POST / HTTP/1.1", b"Content-Length: 5, 5"),
        request(b"POST / HTTP/1.1", b"Content-Length: +5"),
        request(b"POST / HTTP/1.1", b"Content-Length: -5"),
        request(b"POST / HTTP/1.1", b"Content-Length: 0x5"),
        request(b"POST / HTTP/1.1", b"Content-Length: 5 5"),
        request(b"POST / HTTP/1.1", b"Content-Length:"),
        request(b"POST / HTTP/1.1", b"Content-Length: " + b"9" * 30),
        request(b"POST / HTTP/1.1", b"Content-Length : 5"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: gzip, chunked"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked, chunked"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: identity"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: xchunked"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked;a=b"),
        request(b"POST / HTTP/1.1", b'Transfer-Encoding: "chunked"'),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: \x0bchunked"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding:\n chunked"),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding:"),
        request(b"POST / HTTP/1.1", b"Transfer_Encoding : chunked"),
        request(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"),
        request(b"GET / HTTP/1.1", b"X: a\r\n folded"),
        request(b"GET / HTTP/1.1", b"X: a\nY: b"),
        request(b"GET / HTTP/1.1", b"X: a\rY: b"),
        request(b"GET / HTTP/1.1", b"X: a\0b"),
        request(b"GET / HTTP/1.1", b"X\0: a"),
        request(b"GET / HTTP/1.1", b": a"),
        request(b"GET / HTTP/1.1", b"X"),
        request(b"GET / HTTP/1.1", b"X Y: a"),
        request(b"GET / HTTP/1.1", b"X\xff: a"),
        request(b"GET / HTTP/1.1", b"X(: a"),
    ],
)
def test_the_smuggling_battery_is_refused(head: bytes) -> None:
    assert refusal(head) is TunnelErrorCode.BAD_REQUEST


def test_too_many_headers_are_refused_before_they_are_parsed() -> None:
    head = request(b"GET / HTTP/1.1", *[b"X: 1"] * 100)
    assert refusal(head) is TunnelErrorCode.HEAD_TOO_LARGE
    assert len(parse_request(head, headers_most=101).headers) == 101


@pytest.mark.parametrize(
    "target", [b"/", b"/a%2Fb", b"//x", b"/a;b=c", b"/?", b"/?a=b?c", b"/a/../b", b"/" + b"a" * 8000, b"/#x"]
)
def test_targets_are_taken_byte_for_byte(target: bytes) -> None:
    assert parse_request(request(b"GET %b HTTP/1.1" % target), headers_most=9).target == target


def test_options_may_ask_for_the_whole_server() -> None:
    assert parse_request(request(b"OPTIONS * HTTP/1.1"), headers_most=9).target == b"*"


@pytest.mark.parametrize(
    ("headers", "framing", "length"),
    [
        ([], Framing.NONE, 0),
        ([b"Content-Length: 0"], Framing.LENGTH, 0),
        ([b"content-LENGTH: 007"], Framing.LENGTH, 7),
        ([b"Transfer-Encoding: Chunked"], Framing.CHUNKED, 0),
    ],
)
def test_the_body_is_framed_by_the_headers(headers: list[bytes], framing: Framing, length: int) -> None:
    head = parse_request(request(b"POST / HTTP/1.1", *headers), headers_most=9)
    assert (head.framing, head.length) == (framing, length)


@pytest.mark.parametrize(
    ("line", "headers", "keeps"),
    [
        (b"GET / HTTP/1.1", [], True),
        (b"GET / HTTP/1.1", [b"Connection: close"], False),
        (b"GET / HTTP/1.1", [b"connection: x, CLOSE"], False),
        (b"GET / HTTP/1.1", [b"Connection: keep-alive"], True),
        (b"GET / HTTP/1.1", [b"Connection: Upgrade", b"Upgrade: websocket"], True),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive"], False),
    ],
)
def test_keep_alive_is_read(line: bytes, headers: list[bytes], keeps: bool) -> None:
    assert parse_request(request(line, *headers), headers_most=9).keeps_alive is keeps


@pytest.mark.parametrize(
    "beginning", [b"GET / HTTP/1.1\nHost", b"GET /\r\n", b"GET / HTTP/2.0\r\n", b"\x16\x03\x01\r\n", b"a\n"]
)
def test_what_cannot_become_a_request_is_refused_at_once(beginning: bytes) -> None:
    with pytest.raises(TunnelError):
        check_beginning(beginning)


@pytest.mark.parametrize("end", range(len(request(b"POST /a HTTP/1.1", b"A: b")) - 3))
def test_every_beginning_of_a_request_may_become_one(end: int) -> None:
    check_beginning(request(b"POST /a HTTP/1.1", b"A: b")[:end])


# --- a second parser --------------------------------------------------------------------------------------------------

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"get", b"X", b""])
TARGETS = st.sampled_from([b"/", b"/a?b", b"*", b"//", b"http://a/", b"/\xff", b"/ a", b"/\t", b""])
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b""])
NAMES = st.sampled_from(
    [b"Host", b"host", b"X", b"Content-Length", b"Transfer-Encoding", b"Connection", b"X ", b" X", b"", b"X\x7f"]
)
VALUES = st.one_of(
    st.sampled_from([b"a", b"5", b"chunked", b"gzip, chunked", b"close", b"", b"a b", b"\x7f", b"a\r\n b", b"a\nb", b"a\0"]),
    st.binary(max_size=6),
)
SEPARATORS = st.sampled_from([b": ", b":", b":\t", b" : ", b""])
LINES = st.builds(lambda name, separator, value: name + separator + value, NAMES, SEPARATORS, VALUES)
HEADS = st.builds(
    lambda method, target, version, gap, headers: (
        method + gap + target + gap + version + b"\r\n" + b"".join(line + b"\r\n" for line in headers) + b"\r\n"
    ),
    METHODS,
    TARGETS,
    VERSIONS,
    st.sampled_from([b" ", b" ", b" ", b"  ", b"\t"]),
    st.lists(LINES, max_size=4).map(lambda lines: [b"Host: a", *lines]),
)


def by_h11(head: bytes) -> h11.Request:
    http = h11.Connection(h11.SERVER)
    http.receive_data(head)
    event = http.next_event()
    assert isinstance(event, h11.Request), event
    return event


@settings(max_examples=600)
@given(HEADS)
def test_what_we_take_h11_takes_and_reads_the_same(data: bytes) -> None:
    head = data[: data.index(b"\r\n\r\n") + 4]
    try:
        ours = parse_request(head, headers_most=20)
    except TunnelError:
        return
    theirs = by_h11(head)
    assert (ours.method, ours.target) == (theirs.method, theirs.target)
    assert [(name.lower(), value) for name, value in ours.headers] == [(name, value) for name, value in theirs.headers]


@given(st.binary(max_size=200))
def test_no_head_crashes_the_parsers(data: bytes) -> None:
    head = data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n"
    with contextlib.suppress(TunnelError):
        parse_request(head, headers_most=20)
    with contextlib.suppress(HeadError):
        parse_response(b"HTTP/1.1 " + head, headers_most=20, is_head_request=False)


# --- responses --------------------------------------------------------------------------------------------------------


def response(line: bytes = b"HTTP/1.1 200 OK", *headers: bytes) -> bytes:
    return line + b"\r\n" + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


@pytest.mark.parametrize(
    ("head", "is_head_request", "framing", "keeps"),
    [
        (response(b"HTTP/1.1 200 OK", b"Content-Length: 5"), False, Framing.LENGTH, True),
        (response(b"HTTP/1.1 200", b"Content-Length: 5"), False, Framing.LENGTH, True),
        (response(b"HTTP/1.1 200 ", b"Content-Length: 5"), False, Framing.LENGTH, True),
        (response(b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Connection: close"), False, Framing.LENGTH, False),
        (response(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"), False, Framing.CHUNKED, True),
        (response(), False, Framing.CLOSE, False),
        (response(b"HTTP/1.0 200 OK", b"Content-Length: 5"), False, Framing.LENGTH, False),
        (response(b"HTTP/1.1 200 OK", b"Content-Length: 5"), True, Framing.NONE, True),
        (response(b"HTTP/1.1 204 No Content", b"Content-Length: 5"), False, Framing.NONE, True),
        (response(b"HTTP/1.1 304 Not Modified", b"Content-Length: 5"), False, Framing.NONE, True),
        (response(b"HTTP/1.1 103 Early Hints", b"Link: a"), False, Framing.NONE, True),
    ],
)
def test_a_response_is_framed(head: bytes, is_head_request: bool, framing: Framing, keeps: bool) -> None:
    ours = parse_response(head, headers_most=9, is_head_request=is_head_request)
    assert (ours.framing, ours.keeps_alive) == (framing, keeps)


@pytest.mark.parametrize(
    "head",
    [
        response(b"HTTP/2.0 200 OK"),
        response(b"HTTP/1.1 20 OK"),
        response(b"HTTP/1.1 2000 OK"),
        response(b"HTTP/1.1 099 OK"),
        response(b"HTTP/1.1  200 OK"),
        response(b"ICY 200 OK"),
        response(b"200 OK"),
        response(b""),
        response(b"HTTP/1.1 200 \0"),
        response(b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Content-Length: 5"),
        response(b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        response(b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip"),
        response(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"),
        response(b"HTTP/1.1 200 OK", b"X: a\nSet-Cookie: b"),
        response(b"HTTP/1.1 200 OK", b"X: a\r\n b"),
        response(b"HTTP/1.1 200 OK", *[b"X: 1"] * 10),
    ],
)
def test_a_response_that_could_be_read_otherwise_is_refused(head: bytes) -> None:
    with pytest.raises(HeadError):
        parse_response(head, headers_most=9, is_head_request=False)
