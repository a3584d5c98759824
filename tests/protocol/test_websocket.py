from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.websocket import (
    FRAME_LIMIT,
    Close,
    Event,
    Ping,
    Pong,
    Role,
    Violation,
    WebSocketCodec,
    apply_mask,
    mask_in_python,
)

KEY = b"\x37\xfa\x21\x3d"


def codec(role: Role) -> WebSocketCodec:
    return WebSocketCodec(role, lambda size: KEY[:size])


def gathered(events: list[Event]) -> list[Event]:
    """Payload that stands together joined: where it was split means nothing."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, bytes) and isinstance(last, bytes):
            joined[-1] = last + event
        else:
            joined.append(event)
    return joined


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = None, reserved: int = 0) -> bytes:
    """A frame by the letter of RFC 6455 5.2, written apart from the codec."""
    size = len(payload)
    bit = 0x80 if mask else 0
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


# --- masking ----------------------------------------------------------------------------------------------------------


def test_the_masked_example_of_the_rfc_is_unmasked() -> None:
    # RFC 6455 5.7, with a binary opcode
    assert codec(Role.SERVER).receive_data(bytes.fromhex("828537fa213d7f9f4d5158")) == [b"Hello"]
    assert codec(Role.CLIENT).payload(b"Hello") == bytes.fromhex("828537fa213d7f9f4d5158")


@given(st.binary(max_size=5000), st.binary(min_size=4, max_size=4))
def test_masking_is_a_xor_at_every_size_and_its_own_inverse(data: bytes, mask: bytes) -> None:
    masked = apply_mask(data, mask)
    assert masked == bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
    assert masked == mask_in_python(data, mask)
    assert apply_mask(masked, mask) == data


def test_each_frame_of_a_client_asks_for_entropy_of_its_own() -> None:
    keys = iter([b"aaaa", b"bbbb"])
    client = WebSocketCodec(Role.CLIENT, lambda _: next(keys))
    sent = client.payload(bytes(FRAME_LIMIT + 1))
    assert sent[4:8] == b"aaaa"
    assert sent[FRAME_LIMIT + 8 + 2 :][:4] == b"bbbb"


def test_a_server_asks_for_no_entropy() -> None:
    server = WebSocketCodec(Role.SERVER, lambda _: pytest.fail("no mask here"))
    assert server.payload(b"x") == b"\x82\x01x"


# --- both ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", Role)
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 1024, 1025, FRAME_LIMIT, FRAME_LIMIT + 1, 100_000])
def test_payload_of_any_size_crosses(sender: Role, size: int) -> None:
    receiver = Role.SERVER if sender is Role.CLIENT else Role.CLIENT
    data = bytes(place * 7 & 0xFF for place in range(size))
    for form in (data, bytearray(data), memoryview(data)):
        assert b"".join(e for e in codec(receiver).receive_data(codec(sender).payload(form)) if isinstance(e, bytes)) == data


@given(st.lists(st.integers(0, 3 * FRAME_LIMIT), max_size=4))
def test_no_frame_of_ours_is_over_its_limit(sizes: list[int]) -> None:
    for payload_size in sizes:
        wire = codec(Role.SERVER).payload(bytes(payload_size))
        position = 0
        while position < len(wire):
            size = wire[position + 1]
            head = 2
            if size == 126:
                size, head = int.from_bytes(wire[position + 2 : position + 4], "big"), 4
            assert size <= FRAME_LIMIT
            position += head + size
        assert position == len(wire)


# An integer stands for so many zero bytes: an example must be short enough to print.
_FRAMES = st.one_of(
    st.tuples(st.just(2), st.binary(max_size=300), st.booleans()),
    st.tuples(st.just(0), st.binary(max_size=300), st.booleans()),
    st.tuples(st.just(2), st.integers(60_000, 70_000), st.just(True)),
    st.tuples(st.just(9), st.binary(max_size=125), st.just(True)),
    st.tuples(st.just(10), st.binary(max_size=125), st.just(True)),
    st.tuples(st.just(8), st.sampled_from([b"", b"\x03\xe8", b"\x03\xe9bye", b"\x0f\xa0why"]), st.just(True)),
    st.tuples(st.sampled_from([1, 3, 11]), st.binary(max_size=20), st.booleans()),
)


def _in_pieces(wire: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    return [wire[start:end] for start, end in pairwise(bounds)]


@given(st.lists(_FRAMES, max_size=8), st.sampled_from(Role), st.lists(st.integers(0, 3000), max_size=12))
def test_any_split_of_the_input_gives_the_same_payload_and_events(
    frames: list[tuple[int, bytes | int, bool]], role: Role, cuts: list[int]
) -> None:
    mask = KEY if role is Role.SERVER else None
    wire = b"".join(frame(opcode, bytes(payload), fin=fin, mask=mask) for opcode, payload, fin in frames)
    whole = codec(role).receive_data(wire)
    splitter = codec(role)
    split = [event for piece in _in_pieces(wire, cuts) for event in splitter.receive_data(piece)]
    assert gathered(split) == gathered(whole)


@given(st.lists(_FRAMES, max_size=4), st.sampled_from(Role))
def test_byte_by_byte_gives_the_same_as_at_once(frames: list[tuple[int, bytes | int, bool]], role: Role) -> None:
    mask = KEY if role is Role.SERVER else None
    wire = b"".join(frame(opcode, bytes(payload)[:200], fin=fin, mask=mask) for opcode, payload, fin in frames)
    crumbs = codec(role)
    events = [event for place in range(len(wire)) for event in crumbs.receive_data(wire[place : place + 1])]
    assert gathered(events) == gathered(codec(role).receive_data(wire))


@given(st.lists(st.binary(max_size=200), max_size=6), st.sampled_from(Role))
def test_garbage_never_crashes_and_ends_at_most_once(pieces: list[bytes], role: Role) -> None:
    receiver = codec(role)
    events = [event for piece in pieces for event in receiver.receive_data(piece)]
    ends = [place for place, event in enumerate(events) if isinstance(event, Close | Violation)]
    assert ends in ([], [len(events) - 1])


def test_a_frame_of_any_length_is_handed_out_as_it_comes_and_nothing_is_kept() -> None:
    receiver = codec(Role.CLIENT)
    receiver.receive_data(b"\x82\x7f" + (1 << 40).to_bytes(8, "big"))
    for _ in range(50):
        assert receiver.receive_data(b"x" * 1000) == [b"x" * 1000]


def test_a_continuation_is_data() -> None:
    wire = frame(2, b"a", fin=False) + frame(0, b"b", fin=False) + frame(9, b"!") + frame(0, b"c") + frame(0, b"d")
    assert gathered(codec(Role.CLIENT).receive_data(wire)) == [b"ab", Ping(b"!"), b"cd"]


# --- control ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", Role)
def test_control_frames_cross(sender: Role) -> None:
    receiver = codec(Role.SERVER if sender is Role.CLIENT else Role.CLIENT)
    ours = codec(sender)
    wire = ours.ping(b"1") + ours.pong(b"2") + ours.ping() + ours.close(1008, "leaf_signed_directly")
    assert receiver.receive_data(wire) == [Ping(b"1"), Pong(b"2"), Ping(b""), Close(1008, "leaf_signed_directly")]


def test_nothing_follows_a_close() -> None:
    receiver = codec(Role.CLIENT)
    assert receiver.receive_data(frame(8, b"\x03\xe8") + frame(2, b"late")) == [Close(1000, "")]
    assert receiver.receive_data(frame(2, b"later")) == []


def test_a_close_without_a_code_has_none() -> None:
    assert codec(Role.CLIENT).receive_data(frame(8, b"")) == [Close(None, "")]


def test_a_long_reason_is_cut_between_characters() -> None:
    sent = codec(Role.SERVER).close(1008, "ä" * 100)
    assert len(sent) <= 2 + 125
    assert codec(Role.CLIENT).receive_data(sent) == [Close(1008, "ä" * 61)]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])
def test_codes_that_no_close_may_carry_are_neither_sent_nor_taken(code: int) -> None:
    with pytest.raises(ValueError, match="not for Close"):
        codec(Role.SERVER).close(code)
    [event] = codec(Role.CLIENT).receive_data(frame(8, code.to_bytes(2, "big")))
    assert isinstance(event, Violation)
    assert event.code == 1002


# --- violations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "wire", "code"),
    [
        pytest.param(Role.SERVER, frame(2, b"x"), 1002, id="an unmasked client"),
        pytest.param(Role.CLIENT, frame(2, b"x", mask=KEY), 1002, id="a masked server"),
        pytest.param(Role.CLIENT, frame(1, b"text"), 1003, id="text"),
        pytest.param(Role.CLIENT, frame(2, b"x", reserved=4), 1002, id="compression that was not negotiated"),
        pytest.param(Role.CLIENT, frame(2, b"x", reserved=1), 1002, id="a reserved bit"),
        pytest.param(Role.CLIENT, frame(3, b""), 1002, id="a reserved data opcode"),
        pytest.param(Role.CLIENT, frame(11, b""), 1002, id="a reserved control opcode"),
        pytest.param(Role.CLIENT, frame(9, b"x" * 126), 1002, id="a long ping"),
        pytest.param(Role.CLIENT, frame(9, b"x", fin=False), 1002, id="a ping in fragments"),
        pytest.param(Role.CLIENT, frame(8, b"x"), 1002, id="half a close code"),
        pytest.param(Role.CLIENT, frame(8, b"\x03\xe8\xff"), 1007, id="a reason that is not UTF-8"),
        pytest.param(Role.CLIENT, b"\x82\x7e\x00\x05hello", 1002, id="a length longer than it must be"),
        pytest.param(Role.CLIENT, b"\x82\x7f" + (5).to_bytes(8, "big"), 1002, id="a length much longer than it must be"),
        pytest.param(Role.CLIENT, b"\x82\x7f" + b"\xff" * 8, 1002, id="a length with its highest bit set"),
    ],
)
def test_a_broken_rule_ends_the_connection_with_its_code_and_keeps_what_came_before(role: Role, wire: bytes, code: int) -> None:
    receiver = codec(role)
    before = frame(2, b"before", mask=KEY if role is Role.SERVER else None)
    payload, event = receiver.receive_data(before + wire)
    assert payload == b"before"
    assert isinstance(event, Violation)
    assert event.code == code
    assert receiver.receive_data(frame(2, b"after")) == []
