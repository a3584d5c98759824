"""The codec by itself: what the vectors do not show."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.capnp import MAX_MESSAGE, Message, Reader, Splitter, Struct, Structs, serialize, words
from penstock.protocol.errors import RemoteProtocolError


def read(data: bytes) -> Reader:
    (message,) = Splitter().feed(data)
    return message.root


def test_what_is_written_is_read() -> None:
    inner = Struct(words(7), ("inner",))
    root = read(
        serialize(Struct(words(0x1234, 2**64 - 1), (b"bytes", "täxt", ("a", "", "c"), Structs((inner, inner)), None, inner)))
    )
    assert (root.number(0, 2), root.number(8, 8), root.number(8, 8, signed=True)) == (0x1234, 2**64 - 1, -1)
    assert (root.bit(2), root.bit(0)) == (True, False)
    assert (root.data(0), root.text(1), root.texts(2)) == (b"bytes", "täxt", ["a", "", "c"])
    assert [item.text(0) for item in root.structs(3)] == ["inner", "inner"]
    assert root.struct(5).number(0, 8) == 7


def test_fields_of_a_newer_schema_read_as_empty() -> None:
    root = read(serialize(Struct()))
    assert (root.number(80, 4), root.bit(9), root.text(3), root.data(3), root.texts(3), root.structs(3)) == (
        0,
        False,
        "",
        b"",
        [],
        [],
    )
    assert root.struct(1).struct(2).text(0) == ""


def test_far_pointers_reach_other_segments() -> None:
    text = b"far away"
    far = 1 << 32 | 0 << 3 | 2  # to word 0 of segment 1
    first = words(0 << 2 | 1 << 48, far)
    second = words(0 << 2 | 1 | 2 << 32 | 9 << 35) + text + bytes(8)
    assert Message([first, second]).root.text(0) == "far away"
    double = words(0 << 2 | 1 << 48, 1 << 32 | 0 << 3 | 4 | 2)
    pad = words(2 << 32 | 0 << 3 | 2, 1 | 2 << 32 | 9 << 35)
    assert Message([double, pad, text + bytes(8)]).root.text(0) == "far away"


@pytest.mark.parametrize(
    "segments",
    [
        [b""],
        [words(100 << 2 | 1 << 32)],
        [words((2**30 - 5) << 2 | 1 << 32)],
        [words(2 | 9 << 32)],
        [words(0 << 2 | 1 << 48, 1 | 2 << 32 | (2**29 - 1) << 35)],
        [words(0 << 2 | 1 << 48, 0 | 1 << 32), words(0)],
        [words(0 << 2 | 1 << 48, 1 | 2 << 32 | 3 << 35) + b"abcdefgh"],
        [words(0 << 2 | 1 << 48, 1 | 2 << 32 | 3 << 35) + b"\xff\xff\0\0\0\0\0\0"],
    ],
)
def test_pointers_that_lead_nowhere_are_refused(segments: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        Message(segments).root.text(0)


def test_a_message_that_contains_itself_ends() -> None:
    # a struct whose only pointer points back at the struct
    message = Message([words((0 << 2) | 1 << 48, (2**30 - 1) << 2 & 0xFFFF_FFFF | 1 << 48)])

    def descend(reader: Reader) -> None:
        descend(reader.struct(0))

    with pytest.raises(RemoteProtocolError):
        descend(message.root)


def test_a_list_that_claims_more_than_its_bytes_costs_nothing() -> None:
    empty_structs = words(0 << 2 | 1 << 48, 1 | 7 << 32, (2**29) << 2)
    with pytest.raises(RemoteProtocolError):
        Message([empty_structs]).root.structs(0)


def test_size_and_segments_are_limited_before_anything_is_kept() -> None:
    for table in (struct.pack("<II", 0, MAX_MESSAGE // 8 + 1), struct.pack("<I", 2**32 - 1)):
        with pytest.raises(RemoteProtocolError):
            Splitter().feed(table)


@given(st.lists(st.binary(max_size=64).map(lambda data: data + bytes(-len(data) % 8)), min_size=1, max_size=3))
def test_no_message_crashes_the_reader(segments: list[bytes]) -> None:
    try:
        root = Message(segments).root
        root.data(0)
        root.texts(1)
        root.structs(2)
        root.struct(3).text(0)
    except RemoteProtocolError:
        pass
