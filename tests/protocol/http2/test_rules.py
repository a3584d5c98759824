"""A peer that breaks rules: each frame by hand, and what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.protocol.http2 import (
    Connection,
    DataReceived,
    ErrorCode,
    Event,
    HeadersReceived,
    Holder,
    RemoteProtocolError,
    Role,
    Settings,
    StreamReset,
)
from penstock.protocol.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADER,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTING,
    WORD,
    FrameType,
    frame,
    goaway,
    rst_stream,
    window_update,
)

if TYPE_CHECKING:
    from collections.abc import Callable
from penstock.protocol.http2.headers import count_fields

REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"e"), (b":path", b"/")]
F = FrameType
HELLO = frame(F.SETTINGS, 0, 0)


def block(headers: list[tuple[bytes, bytes]] = REQUEST) -> bytes:
    return Encoder().encode(headers)


def head(stream_id: int, headers: list[tuple[bytes, bytes]] = REQUEST, flags: int = END_HEADERS) -> bytes:
    return frame(F.HEADERS, flags, stream_id, block(headers))


def agent(limits: Settings | None = None) -> Connection:
    connection = Connection(Role.AGENT, limits or Settings())
    connection.start()
    connection.receive_data(PREFACE + HELLO)
    connection.data_to_send()
    return connection


def edge(limits: Settings | None = None) -> Connection:
    connection = Connection(Role.EDGE, limits or Settings())
    connection.start()
    connection.receive_data(HELLO)
    connection.data_to_send()
    return connection


def refused(connection: Connection, data: bytes) -> int:
    """The connection error's code; it is the GOAWAY's too, nothing follows, and it stays."""
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(data)
    assert goaway(0, caught.value.code)[9 + 4 :] in connection.data_to_send()
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(b"")
    assert connection.open_streams == 0
    assert connection.is_closing
    return caught.value.code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(F.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(F.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (head(2), ErrorCode.PROTOCOL_ERROR),
        (head(0), ErrorCode.PROTOCOL_ERROR),
        (head(5) + head(3), ErrorCode.PROTOCOL_ERROR),
        (frame(F.PRIORITY, 0, 1, b"four"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(F.PRIORITY, 0, 0, b"fives"), ErrorCode.PROTOCOL_ERROR),
        (rst_stream(1, 0), ErrorCode.PROTOCOL_ERROR),
        (head(1) + frame(F.RST_STREAM, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(F.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(F.SETTINGS, ACK, 0, SETTING.pack(1, 1)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(F.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(F.SETTINGS, 0, 0, SETTING.pack(2, 2)), ErrorCode.PROTOCOL_ERROR),
        (frame(F.SETTINGS, 0, 0, SETTING.pack(4, 2**31)), ErrorCode.FLOW_CONTROL_ERROR),
        (frame(F.SETTINGS, 0, 0, SETTING.pack(5, 16_383)), ErrorCode.PROTOCOL_ERROR),
        (frame(F.PUSH_PROMISE, END_HEADERS, 1, WORD.pack(2) + block()), ErrorCode.PROTOCOL_ERROR),
        (frame(F.PING, 0, 0, b"short"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(F.PING, 0, 1, b"8 bytes."), ErrorCode.PROTOCOL_ERROR),
        (frame(F.GOAWAY, 0, 0, b"short"), ErrorCode.FRAME_SIZE_ERROR),
        (window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (window_update(1, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(F.CONTINUATION, END_HEADERS, 1, block()), ErrorCode.PROTOCOL_ERROR),
        (head(1, flags=0) + frame(F.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (head(1) + head(3, flags=0) + frame(F.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (head(1, flags=0) + frame(99, 0, 0), ErrorCode.PROTOCOL_ERROR),
        (frame(F.HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (frame(F.HEADERS, END_HEADERS | PRIORITY, 1, b"four"), ErrorCode.FRAME_SIZE_ERROR),
        (head(1) + frame(F.DATA, PADDED, 1, b"\x02x"), ErrorCode.PROTOCOL_ERROR),
        (head(1) + frame(F.DATA, PADDED, 1), ErrorCode.PROTOCOL_ERROR),
        (HEADER.pack(16_385 << 8, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_a_broken_rule_of_the_connection_ends_it(data: bytes, code: int) -> None:
    assert refused(agent(), data) == code


def test_what_comes_first_is_the_preface_and_settings() -> None:
    connection = Connection(Role.AGENT)
    connection.start()
    refused(connection, b"GET / HTTP/1.1\r\n")
    connection = Connection(Role.AGENT)
    connection.start()
    refused(connection, PREFACE + frame(F.PING, 0, 0, bytes(8)))


def opened(connection: Connection) -> Connection:
    connection.receive_data(head(1))
    return connection


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(F.DATA, END_STREAM, 1) + frame(F.DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
        (head(1, [(b"x", b"y")], END_HEADERS), ErrorCode.PROTOCOL_ERROR),
        (head(1, [(b":path", b"/")], END_HEADERS | END_STREAM), ErrorCode.PROTOCOL_ERROR),
        (window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (frame(F.DATA, 0, 1, bytes(16_384)) * 5, ErrorCode.FLOW_CONTROL_ERROR),
    ],
)
def test_a_broken_rule_of_one_stream_resets_that_stream_and_no_other(data: bytes, code: int) -> None:
    connection = opened(agent())
    connection.receive_data(head(3))
    events = connection.receive_data(data)
    assert events[-1] == StreamReset(1, code, by_peer=False)
    assert rst_stream(1, code) in connection.data_to_send()
    assert connection.receive_data(frame(F.DATA, 0, 3, b"fine")) == [DataReceived(3, b"fine", 4, False)]


@pytest.mark.parametrize(
    "headers",
    [
        [(b":method", b"GET"), (b":path", b"/")],
        [*REQUEST, (b":path", b"/")],
        [*REQUEST, (b"x", b"1"), (b":late", b"/")],
        [*REQUEST, (b":unknown", b"/")],
        [*REQUEST, (b"Upper", b"x")],
        [*REQUEST, (b"connection", b"close")],
        [*REQUEST, (b"te", b"gzip")],
        [*REQUEST, (b"x", b"line\r\nfeed")],
        [*REQUEST, (b"x", b" padded")],
        [*REQUEST, (b"", b"nameless")],
    ],
)
def test_a_malformed_request_is_reset_and_never_seen(headers: list[tuple[bytes, bytes]]) -> None:
    connection = agent()
    assert connection.receive_data(head(1, headers)) == []
    assert connection.data_to_send() == rst_stream(1, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "answer",
    [
        frame(F.DATA, 0, 1, b"before the head"),
        head(1, [(b":status", b"abc")]),
        head(1, [(b":status", b"200"), (b":path", b"/")]),
        head(1, []),
        head(1, [(b":status", b"100")], END_HEADERS | END_STREAM),
    ],
)
def test_a_malformed_response_resets_its_stream(answer: bytes) -> None:
    connection = edge()
    stream_id = connection.open_stream(REQUEST)
    assert connection.receive_data(answer) == [StreamReset(stream_id, ErrorCode.PROTOCOL_ERROR, by_peer=False)]


def test_a_server_opens_no_streams_towards_an_edge() -> None:
    assert refused(edge(), head(1, [(b":status", b"200")])) == ErrorCode.PROTOCOL_ERROR
    assert refused(edge(), frame(F.PUSH_PROMISE, END_HEADERS, 1, WORD.pack(2))) == ErrorCode.PROTOCOL_ERROR


def test_frames_on_a_stream_we_reset_are_ignored_and_credited_on_the_connection() -> None:
    connection = opened(agent(Settings(connection_window=65_536)))
    connection.reset_stream(1)
    connection.data_to_send()
    assert connection.receive_data(frame(F.DATA, 0, 1, bytes(16_384)) * 2) == []
    assert connection.data_to_send() == window_update(0, 32_768)
    encoder = Encoder()
    encoder.encode(REQUEST)
    ignored = frame(F.HEADERS, END_HEADERS | END_STREAM, 1, encoder.encode([(b"x-new", b"entry")]))
    assert connection.receive_data(ignored + window_update(1, 5) + rst_stream(1, 0)) == []
    # HPACK's table went on: the entry of the ignored block is known
    again = frame(F.HEADERS, END_HEADERS, 3, encoder.encode([*REQUEST, (b"x-new", b"entry")]))
    assert connection.receive_data(again) == [HeadersReceived(3, [*REQUEST, (b"x-new", b"entry")], False)]


def test_data_on_a_stream_the_peer_reset_is_answered_with_stream_closed() -> None:
    connection = opened(agent())
    connection.receive_data(rst_stream(1, ErrorCode.CANCEL))
    assert connection.receive_data(frame(F.DATA, 0, 1, b"late")) == []
    assert connection.data_to_send() == rst_stream(1, ErrorCode.STREAM_CLOSED)


def test_data_on_a_stream_both_sides_ended_ends_the_connection() -> None:
    connection = agent()
    connection.receive_data(head(1, flags=END_HEADERS | END_STREAM))
    connection.send_headers(1, [(b":status", b"200")], end_stream=True)
    assert connection.receive_data(window_update(1, 1) + rst_stream(1, 0)) == []
    connection.data_to_send()
    assert refused(connection, frame(F.DATA, 0, 1, b"late")) == ErrorCode.STREAM_CLOSED


def test_a_go_server_that_ends_early_ends_and_then_resets_with_no_error() -> None:
    connection = edge()
    stream_id = connection.open_stream(REQUEST)
    answer = head(1, [(b":status", b"200")]) + frame(F.DATA, END_STREAM, 1, b"done") + rst_stream(1, ErrorCode.NO_ERROR)
    assert connection.receive_data(answer)[1:] == [
        DataReceived(stream_id, b"done", 4, True),
        StreamReset(stream_id, ErrorCode.NO_ERROR),
    ]


def test_padding_is_stripped_and_credited_without_a_reader() -> None:
    connection = opened(agent())
    padded = frame(F.DATA, PADDED, 1, b"\xff" + b"data" + bytes(255))
    for _ in range(1000):
        assert connection.receive_data(padded) == [DataReceived(1, b"data", 4, False)]
        connection.consumed(1, 4)
    padded_head = frame(F.HEADERS, END_HEADERS | PADDED | PRIORITY, 3, b"\x02" + b"prior" + block() + bytes(2))
    assert connection.receive_data(padded_head) == [HeadersReceived(3, REQUEST, False)]


def test_priority_unknown_frames_and_reserved_bits_are_ignored() -> None:
    connection = opened(agent())
    noise = frame(F.PRIORITY, 0, 1, b"fives") + frame(F.PRIORITY, 0, 77, b"fives") + frame(0x10, 0xFF, 1, b"extension")
    assert connection.receive_data(noise) == []
    reserved = HEADER.pack(1 << 8, 0, 1 | 1 << 31) + b"x"
    assert connection.receive_data(reserved) == [DataReceived(1, b"x", 1, False)]
    assert not connection.has_data_to_send


def test_streams_over_the_limit_or_after_goaway_are_refused() -> None:
    connection = agent(Settings(max_concurrent_streams=1))
    assert len(connection.receive_data(head(1) + head(3))) == 1
    assert connection.data_to_send() == rst_stream(3, ErrorCode.REFUSED_STREAM)
    connection.close()
    connection.reset_stream(1)
    connection.data_to_send()
    assert connection.receive_data(head(5)) == []
    assert connection.data_to_send() == rst_stream(5, ErrorCode.REFUSED_STREAM)


def test_a_lowered_initial_window_makes_windows_negative_and_holds_data_back() -> None:
    connection = opened(agent())
    connection.send_headers(1, [(b":status", b"200")])
    connection.send_data(1, bytes(70_000))
    connection.data_to_send()
    connection.receive_data(frame(F.SETTINGS, 0, 0, SETTING.pack(4, 1000)) + window_update(0, 100_000))
    assert connection.data_to_send() == frame(F.SETTINGS, ACK, 0)
    connection.receive_data(window_update(1, 64_535))
    assert not connection.has_data_to_send
    connection.receive_data(window_update(1, 10))
    assert connection.data_to_send() == frame(F.DATA, 0, 1, bytes(10))


def test_windows_follow_every_change_of_the_initial_window() -> None:
    connection = opened(agent())
    connection.send_headers(1, [(b":status", b"200")])
    for size in (1000, 2000, 500, 3000):
        connection.receive_data(frame(F.SETTINGS, 0, 0, SETTING.pack(4, size)))
    connection.data_to_send()
    connection.send_data(1, bytes(5000))
    assert connection.data_to_send() == frame(F.DATA, 0, 1, bytes(3000))


def test_all_streams_together_send_no_more_than_the_connections_window() -> None:
    connection = agent()
    for stream_id in (1, 3, 5):
        connection.receive_data(head(stream_id))
        connection.send_headers(stream_id, [(b":status", b"200")])
    connection.data_to_send()
    for stream_id in (1, 3, 5):
        connection.send_data(stream_id, b"\xaa" * 40_000)
    assert connection.data_to_send().count(b"\xaa") == 65_535
    assert not connection.has_data_to_send
    connection.receive_data(window_update(0, 1000))
    assert connection.data_to_send().count(b"\xaa") == 1000


def test_a_stalled_stream_leaves_most_of_a_small_connection_window_to_others() -> None:
    """A stock agent: 1 MiB for each stream and 1 MiB for all of them."""
    connection = edge()
    connection.receive_data(frame(F.SETTINGS, 0, 0, SETTING.pack(4, 1 << 20)) + window_update(0, (1 << 20) - 65_535))
    assert connection.peer_connection_window == 1 << 20
    streams = [connection.open_stream(REQUEST) for _ in range(3)]
    for stream_id in streams:
        connection.send_data(stream_id, bytes(1 << 20))
    connection.data_to_send()
    assert connection.holders() == [Holder(stream_id, 65_536, 0) for stream_id in streams]
    assert connection.uncredited == 3 * 65_536
    connection.receive_data(window_update(streams[1], 40_000))
    connection.data_to_send()
    assert [holder.credits for holder in connection.holders()] == [0, 1, 0]
    connection.receive_data(window_update(streams[2], 65_000))
    connection.reset_stream(streams[2])
    assert [holder.id for holder in connection.holders()] == streams[:2]


FLOODS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "opened and reset": (lambda turn: head(2 * turn + 1) + rst_stream(2 * turn + 1, 8), 5000),
    "made to reset": (lambda turn: head(2 * turn + 1) + window_update(2 * turn + 1, 0), 5000),
    "malformed": (lambda turn: head(2 * turn + 1, [(b"x", b"y")]), 5000),
    "ping": (lambda turn: frame(F.PING, 0, 0, bytes(8)), 1000),
    "settings": (lambda turn: frame(F.SETTINGS, 0, 0), 99),
    "empty data": (lambda turn: (b"" if turn else head(1)) + frame(F.DATA, 0, 1), 1000),
    "padding alone": (lambda turn: (b"" if turn else head(1)) + frame(F.DATA, PADDED, 1, b"\0"), 1000),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_ended_at_its_limit_and_an_interval_begins_anew(name: str) -> None:
    one, limit = FLOODS[name]
    connection = agent()
    for turn in range(limit):
        connection.receive_data(one(turn))
    connection.data_to_send()
    connection.begin_interval()
    for turn in range(limit, 2 * limit):
        connection.receive_data(one(turn))
    connection.data_to_send()
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(one(2 * limit) + one(2 * limit + 1))
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_continuations_are_limited_in_number_and_size() -> None:
    empty = head(1, flags=0) + frame(F.CONTINUATION, 0, 1) * 64
    connection = agent()
    connection.receive_data(empty)
    assert refused(connection, frame(F.CONTINUATION, 0, 1)) == ErrorCode.ENHANCE_YOUR_CALM
    large = head(1, flags=0) + frame(F.CONTINUATION, 0, 1, bytes(16_384)) * 16
    assert refused(agent(), large) == ErrorCode.ENHANCE_YOUR_CALM


def test_a_small_block_cannot_become_a_large_head() -> None:
    encoder = Encoder()
    bomb = encoder.encode([(b"x", b"y" * 4000)]) + b"\xbe" * 400
    assert refused(agent(), frame(F.HEADERS, END_HEADERS, 1, bomb)) == ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize(
    "field", [b"\x00\x01a\x00", b"\x40\x01a\x00", b"\x82", b"\x0f\x2b\x01a", b"\x00\x01a\x7f\x01" + bytes(128)]
)
def test_a_head_of_very_many_fields_is_refused_before_it_is_decoded(field: bytes) -> None:
    connection = agent()
    connection.receive_data(frame(F.HEADERS, END_HEADERS, 1, field * 100))
    assert (
        refused(agent(Settings(max_header_fields=12)), frame(F.HEADERS, END_HEADERS, 1, field * 100))
        == ErrorCode.ENHANCE_YOUR_CALM
    )


def test_a_head_of_few_fields_that_would_take_long_is_refused_before_it_is_decoded() -> None:
    limits = Settings(max_header_fields=10, max_header_block=1000)
    lawful, long = b"\x00\x01a\x5a" + bytes(90), b"\x00\x01a\x2d" + bytes(45)
    agent(limits).receive_data(frame(F.HEADERS, END_HEADERS, 1, lawful * 10))
    assert refused(agent(limits), frame(F.HEADERS, END_HEADERS, 1, long * 20)) == ErrorCode.ENHANCE_YOUR_CALM


def test_a_head_of_too_many_fields_costs_its_stream_alone_and_what_it_taught_the_table_is_known_to_the_next() -> None:
    encoder = Encoder()
    many = encoder.encode([*REQUEST, *((b"x-%d" % number, b"y") for number in range(9))])
    after = encoder.encode([*REQUEST, (b"x-8", b"y")])
    connection = agent(Settings(max_header_fields=12))
    (first,) = connection.receive_data(head(1))
    assert isinstance(first, HeadersReceived)
    assert connection.receive_data(frame(F.HEADERS, END_HEADERS, 3, many)) == []
    assert connection.data_to_send() == rst_stream(3, ErrorCode.PROTOCOL_ERROR)
    (next_one,) = connection.receive_data(frame(F.HEADERS, END_HEADERS, 5, after))
    assert next_one == HeadersReceived(5, [*REQUEST, (b"x-8", b"y")], end_stream=False)
    assert connection.open_streams == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"cookie", b":path"]), st.binary(max_size=300)), max_size=20),
    st.booleans(),
    st.booleans(),
)
def test_fields_are_counted_as_the_encoder_wrote_them(
    headers: list[tuple[bytes, bytes]], huffman: bool, sensitive: bool
) -> None:
    encoder = Encoder()
    for _ in range(2):
        encoded = encoder.encode([(*header, sensitive) for header in headers], huffman=huffman)
        assert count_fields(encoded, len(headers)) == len(headers)
        assert not headers or count_fields(encoded, len(headers) - 1) == len(headers)


def test_replies_to_a_peer_that_does_not_read_are_bounded() -> None:
    connection = agent(Settings(max_pings=10**6, max_queued_control=500))
    assert refused(connection, frame(F.PING, 0, 0, bytes(8)) * 501) == ErrorCode.ENHANCE_YOUR_CALM


def test_streams_forgotten_for_good_are_told_from_those_that_never_lived() -> None:
    connection = agent(Settings(max_forgotten=2))
    for stream_id in (1, 5, 7, 9):
        connection.receive_data(head(stream_id) + rst_stream(stream_id, 8))
    connection.data_to_send()
    assert connection.receive_data(frame(F.DATA, 0, 1, b"late") + frame(F.DATA, 0, 5, b"late")) == []
    assert not connection.has_data_to_send
    assert refused(connection, frame(F.DATA, 0, 11, b"early")) == ErrorCode.PROTOCOL_ERROR


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 1, 2, 3, 5, 2**31 - 1]),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([block(), block([(b":status", b"200")]), block([(b"a", b"b")]), bytes(16_384), WORD.pack(1)]),
        st.builds(SETTING.pack, st.integers(0, 8), st.integers(0, 2**32 - 1)),
    ),
)


def outcome(connection: Connection, pieces: list[bytes]) -> tuple[list[Event], int | None]:
    events: list[Event] = []
    try:
        for piece in pieces:
            events += connection.receive_data(piece)
    except RemoteProtocolError as exc:
        return [], exc.code  # what came with the broken frame may be lost
    return events, None


@settings(max_examples=400, deadline=None)
@given(
    role=st.sampled_from(Role),
    frames=st.lists(FRAMES, max_size=12),
    tail=st.binary(max_size=30),
    cuts=st.lists(st.integers(1, 300)),
)
def test_no_input_crashes_the_parser_and_any_split_means_the_same(
    role: Role, frames: list[bytes], tail: bytes, cuts: list[int]
) -> None:
    data = (b"" if role is Role.EDGE else PREFACE) + HELLO + b"".join(frames) + tail
    pieces: list[bytes] = []
    rest = data
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    pieces.append(rest)
    whole, split = Connection(role), Connection(role)
    for connection in (whole, split):
        connection.start()
        if role is Role.EDGE:
            connection.open_stream(REQUEST)
            connection.open_stream(REQUEST)
    assert outcome(whole, [data]) == outcome(split, pieces)
    assert whole.data_to_send() == split.data_to_send()
