from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.proxy.bodies import Body, BodyError, encode_chunk, last_chunk, make_body
from penstock.proxy.heads import Framing

REST = b"GET / HTTP/1.1\r\n"


def decode(body: Body, pieces: list[bytes]) -> bytes:
    """The payload; what follows the end is collected in `body.rest`, as the pipeline does."""
    payload, rest = b"", b""
    for piece in pieces:
        if body.is_over:
            rest += piece
            continue
        payload += body.feed(piece)
        rest += body.rest
    body.rest = rest
    return payload


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(at)]


@given(st.binary(max_size=200), st.lists(st.integers(0, 1000)), st.booleans())
def test_a_length_ends_where_it_says_however_it_is_split(payload: bytes, cuts: list[int], has_rest: bool) -> None:
    rest = REST if has_rest else b""
    body = make_body(Framing.LENGTH, len(payload))
    assert decode(body, split(payload + rest, cuts)) == payload
    assert body.is_over
    assert body.rest == rest
    body.end()


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b' ; a = "q\\"uoted" ;b'])


@given(CHUNKS, st.lists(st.integers(0, 4000)), EXTENSIONS, st.sampled_from([b"", b"X-T: 1\r\n", b"A: \r\nB:\xffx\r\n"]))
def test_chunks_are_decoded_however_they_are_split(
    chunks: list[bytes], cuts: list[int], extension: bytes, trailers: bytes
) -> None:
    wire = b"".join(b"%X%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    wire += b"000%b\r\n%b\r\n" % (extension, trailers)
    body = make_body(Framing.CHUNKED, 0)
    assert decode(body, split(wire + REST, cuts)) == b"".join(chunks)
    assert body.is_over
    assert body.rest == REST


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_no_input_crashes_the_decoder_and_any_split_reads_the_same(data: bytes, cuts: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        body = make_body(Framing.CHUNKED, 0)
        try:
            return decode(body, pieces), body.is_over, body.rest
        except BodyError:
            return "refused"

    assert outcome(split(data, cuts)) == outcome([data] if data else [])


SMALL = st.lists(
    st.sampled_from([b"0", b"1", b"5", b"a", b"\r\n", b"\r", b"\n", b";", b"x", b" ", b"\t", b"hello", b"=", b'"']), max_size=14
)


@given(SMALL)
def test_what_we_take_h11_reads_the_same(tokens: list[bytes]) -> None:
    wire = b"".join(tokens) + b"\r\n0\r\n\r\n"
    body = make_body(Framing.CHUNKED, 0)
    try:
        payload = body.feed(wire)
    except BodyError:
        return
    if not body.is_over:
        return
    http = h11.Connection(h11.SERVER)
    http.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    http.next_event()
    theirs = b""
    while isinstance(event := http.next_event(), h11.Data):
        theirs += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert theirs == payload
    assert http.trailing_data[0] == body.rest


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"x\r\n",
        b" 5\r\n",
        b"+5\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b"5 \r\n",
        b"5_0\r\n",
        b"5\nhello\n",
        b"5\r\nhello0\r\n",
        b"5\r\nhello\n0",
        b"5\r\nhellox",
        b"1" * 16 + b"\r\n",
        b"ffffffffffffffffff\r\n",
        b"5;" + b"a" * 300,
        b"5;" + b"a" * 300 + b"\r\n",
        b"5;a\nb\r\n",
        b"5;a\0\r\n",
        b"0\r\nno trailer\r\n",
        b"0\r\n X: folded\r\n",
        b"0\r\nX : 1\r\n",
        b"0\r\nX: \n1\r\n",
        b"0\r\n" + b"X: 1\r\n" * 3000,
        b"0\r\nX: " + b"a" * 9000,
    ],
)
def test_a_chunk_that_could_be_read_otherwise_is_refused(wire: bytes) -> None:
    with pytest.raises(BodyError):
        make_body(Framing.CHUNKED, 0).feed(wire)


def test_an_end_before_the_end_is_an_error() -> None:
    length, chunked = make_body(Framing.LENGTH, 5), make_body(Framing.CHUNKED, 0)
    length.feed(b"hell")
    chunked.feed(b"5\r\nhello\r\n0\r\n")
    for body in (length, chunked):
        with pytest.raises(BodyError):
            body.end()


def test_a_close_delimited_body_is_over_when_its_sender_closes() -> None:
    body = make_body(Framing.CLOSE, 0)
    assert body.feed(b"abc") == b"abc"
    assert not body.is_over
    body.end()
    assert body.is_over


def test_the_middle_of_a_large_chunk_is_not_copied() -> None:
    body = make_body(Framing.CHUNKED, 0)
    body.feed(b"100000\r\n")
    data = bytes(65536)
    assert body.feed(data) is data


@given(st.lists(st.binary(min_size=1), max_size=5))
def test_what_we_encode_is_what_we_decode(payloads: list[bytes]) -> None:
    wire = b"".join(map(encode_chunk, payloads)) + last_chunk(())
    body = make_body(Framing.CHUNKED, 0)
    assert body.feed(wire) == b"".join(payloads)
    assert body.is_over
