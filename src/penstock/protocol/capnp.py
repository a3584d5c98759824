"""A subset of Cap'n Proto's encoding: enough for the registration RPC, checked at every step.

Reading: single- and multi-segment messages, far pointers, structs, byte lists, lists of pointers and of structs. Every
pointer is bounds-checked, nesting is limited, and each message has a budget of words it may be read for, so that lists that
point at themselves cost nothing. Fields beyond a struct's end read as zero, as the encoding's rules of evolution ask.

Writing: one segment, structs laid out depth first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from penstock.protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

WORD: Final = 8
MAX_MESSAGE: Final = 64 * 1024
"""Bytes; a registration has half a thousand, an agent's whole local configuration a few thousand."""
MAX_SEGMENTS: Final = 16
MAX_DEPTH: Final = 24
_READ_FACTOR: Final = 4
"""A message may be read this many times over."""

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_STRUCT, _LIST, _FAR, _OTHER = range(4)
_SIZE_VOID, _SIZE_BYTE, _SIZE_POINTER, _SIZE_COMPOSITE = 0, 2, 6, 7


class Splitter:
    """Cuts a byte stream into framed messages, keeping at most one incomplete one."""

    __slots__ = ("_limit", "_rest")

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._rest = bytearray()
        self._limit = max_message

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole now."""
        rest = self._rest
        rest += data
        messages: list[Message] = []
        start = 0
        while (framing := self._framing(start)) is not None:
            begin, sizes = framing
            stop = begin + WORD * sum(sizes)
            if len(rest) < stop:
                break
            segments: list[bytes] = []
            for size in sizes:
                segments.append(bytes(rest[begin : begin + WORD * size]))
                begin += WORD * size
            messages.append(Message(segments))
            start = stop
        del rest[:start]
        return messages

    def _framing(self, start: int) -> tuple[int, tuple[int, ...]] | None:
        """Where the message at `start` has its first segment, and each segment's words; None when that is not known yet."""
        rest = self._rest
        if len(rest) - start < _U32.size:
            return None
        count = _U32.unpack_from(rest, start)[0] + 1
        if count > MAX_SEGMENTS:
            raise RemoteProtocolError("an RPC message has too many segments")
        table = (_U32.size * (1 + count) + WORD - 1) // WORD * WORD
        if len(rest) - start < table:
            return None
        sizes: tuple[int, ...] = struct.unpack_from(f"<{count}I", rest, start + _U32.size)
        if WORD * sum(sizes) > self._limit:
            raise RemoteProtocolError("an RPC message is too large")
        return start + table, sizes


class Message:
    """One message; `root` is where reading begins."""

    __slots__ = ("_budget", "segments")

    def __init__(self, segments: Sequence[bytes]) -> None:
        self.segments = segments
        self._budget = _READ_FACTOR * sum(len(segment) for segment in segments) // WORD + 64

    @property
    def root(self) -> Reader:
        """The struct the message is."""
        return self.struct_at(0, 0, MAX_DEPTH)

    def spend(self, words: int) -> None:
        """Charge reading against the budget."""
        self._budget -= words + 1
        if self._budget < 0:
            raise RemoteProtocolError("an RPC message refers to itself")

    def word(self, segment: int, index: int) -> int:
        """One word, if it is there."""
        data = self.segments[segment] if segment < len(self.segments) else b""
        if not 0 <= index < len(data) // WORD:
            raise RemoteProtocolError("an RPC message points outside itself")
        return _U64.unpack_from(data, index * WORD)[0]

    def extent(self, segment: int, index: int, size: int) -> bytes:
        """`size` bytes from a word on, if they are there."""
        data = self.segments[segment]
        begin = index * WORD
        if not 0 <= begin <= len(data) or size > len(data) - begin:
            raise RemoteProtocolError("an RPC message points outside itself")
        self.spend(size // WORD)
        return data[begin : begin + size]

    def follow(self, segment: int, index: int) -> tuple[int, int, int]:
        """A pointer, through far pointers: the word that describes its object, and the object's segment and index."""
        pointer = self.word(segment, index)
        if pointer & 3 != _FAR:
            return pointer, segment, index + 1 + _offset(pointer)
        landing, pad = pointer >> 32, (pointer & 0xFFFF_FFFF) >> 3
        first = self.word(landing, pad)
        if not pointer & 4:
            if first & 3 == _FAR:
                raise RemoteProtocolError("an RPC message has a pointer to a pointer")
            return first, landing, pad + 1 + _offset(first)
        # A double-far landing pad: where the object is, then what it is.
        if first & 7 != _FAR:
            raise RemoteProtocolError("an RPC message has a malformed far pointer")
        tag = self.word(landing, pad + 1)
        if tag & 3 == _FAR:
            raise RemoteProtocolError("an RPC message has a pointer to a pointer")
        target = first >> 32
        if target >= len(self.segments):
            raise RemoteProtocolError("an RPC message points outside itself")
        return tag, target, (first & 0xFFFF_FFFF) >> 3

    def struct_at(self, segment: int, index: int, depth: int) -> Reader:
        """The struct a pointer points at; a null pointer is an empty struct."""
        if depth <= 0:
            raise RemoteProtocolError("an RPC message is nested too deeply")
        pointer, target, begin = self.follow(segment, index)
        if pointer == 0:
            return Reader(self, 0, 0, b"", 0, depth)
        if pointer & 3 != _STRUCT:
            raise RemoteProtocolError("an RPC message has another thing where a struct belongs")
        return self.reader(pointer, target, begin, depth)

    def reader(self, pointer: int, segment: int, begin: int, depth: int) -> Reader:
        """The struct that a struct pointer (or a list's tag) describes."""
        words, pointers = pointer >> 32 & 0xFFFF, pointer >> 48
        self.spend(pointers)
        data = self.extent(segment, begin, words * WORD)
        if pointers:
            self.word(segment, begin + words + pointers - 1)
        return Reader(self, segment, begin + words, data, pointers, depth)


def _offset(pointer: int) -> int:
    offset = (pointer & 0xFFFF_FFFF) >> 2
    return offset - (1 << 30) if offset >> 29 else offset


class Reader:
    """A struct, read by offsets: bytes for numbers, bits for booleans, ordinals for pointers."""

    __slots__ = ("_data", "_depth", "_index", "_message", "_pointers", "_segment")

    def __init__(self, message: Message, segment: int, index: int, data: bytes, pointers: int, depth: int) -> None:
        self._message = message
        self._segment = segment
        self._index = index
        self._data = data
        self._pointers = pointers
        self._depth = depth

    def number(self, offset: int, size: int, *, signed: bool = False) -> int:
        """`size` bytes at byte `offset`, little-endian."""
        return int.from_bytes(self._data[offset : offset + size], "little", signed=signed)

    def bit(self, offset: int) -> bool:
        """The bit at `offset`, counted in bits."""
        return bool(self.number(offset // 8, 1) >> offset % 8 & 1)

    def has(self, ordinal: int) -> bool:
        """Whether a pointer is there and not null."""
        return ordinal < self._pointers and self._message.word(self._segment, self._index + ordinal) != 0

    def struct(self, ordinal: int) -> Reader:
        """The struct a pointer points at."""
        if not self.has(ordinal):
            return Reader(self._message, 0, 0, b"", 0, self._depth)
        return self._message.struct_at(self._segment, self._index + ordinal, self._depth - 1)

    def data(self, ordinal: int) -> bytes:
        """A byte list."""
        if not self.has(ordinal):
            return b""
        count, size, segment, begin = self._list(ordinal)
        if size != _SIZE_BYTE and count:
            raise RemoteProtocolError("an RPC message has another list where bytes belong")
        return self._message.extent(segment, begin, count if size == _SIZE_BYTE else 0)

    def text(self, ordinal: int) -> str:
        """A byte list that ends with NUL, in UTF-8."""
        data = self.data(ordinal)
        if data and data[-1]:
            raise RemoteProtocolError("an RPC message has a text without an end")
        try:
            return data[:-1].decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("an RPC message has a text that is not UTF-8") from None

    def structs(self, ordinal: int) -> list[Reader]:
        """A list of structs."""
        if not self.has(ordinal):
            return []
        count, size, segment, begin = self._list(ordinal)
        if size != _SIZE_COMPOSITE:
            if count:
                raise RemoteProtocolError("an RPC message has another list where structs belong")
            return []
        tag = self._message.word(segment, begin)
        items, words = (tag & 0xFFFF_FFFF) >> 2, (tag >> 32 & 0xFFFF) + (tag >> 48)
        if tag & 3 != _STRUCT or items * words > count:
            raise RemoteProtocolError("an RPC message has a malformed list")
        message, depth = self._message, self._nested()
        message.spend(items)
        return [message.reader(tag, segment, begin + 1 + item * words, depth) for item in range(items)]

    def texts(self, ordinal: int) -> list[str]:
        """A list of texts."""
        if not self.has(ordinal):
            return []
        count, size, segment, begin = self._list(ordinal)
        if size != _SIZE_POINTER:
            if count:
                raise RemoteProtocolError("an RPC message has another list where texts belong")
            return []
        self._message.spend(count)
        if count:
            self._message.word(segment, begin + count - 1)
        items = Reader(self._message, segment, begin, b"", count, self._nested())
        return [items.text(item) for item in range(count)]

    def _list(self, ordinal: int) -> tuple[int, int, int, int]:
        """Element count (words, for a composite one), element size, segment and first word."""
        pointer, segment, begin = self._message.follow(self._segment, self._index + ordinal)
        if pointer & 3 != _LIST:
            raise RemoteProtocolError("an RPC message has another thing where a list belongs")
        return pointer >> 35, pointer >> 32 & 7, segment, begin

    def _nested(self) -> int:
        if self._depth <= 1:
            raise RemoteProtocolError("an RPC message is nested too deeply")
        return self._depth - 1


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capability:
    """A pointer to an entry of the message's capability table."""

    index: int


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct to write: its data section (a multiple of 8 bytes) and its pointers."""

    data: bytes = b""
    pointers: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Structs:
    """A list of structs of one shape."""

    items: tuple[Struct, ...] = field(default=())


Node: TypeAlias = Struct | Structs | Capability | bytes | str | tuple[str, ...] | None


def words(*values: int) -> bytes:
    """A data section of whole words."""
    return struct.pack(f"<{len(values)}Q", *values)


def serialize(root: Struct) -> bytes:
    """A framed message of one segment."""
    out = bytearray(WORD)
    _write(out, 0, root)
    return _U32.pack(0) + _U32.pack(len(out) // WORD) + bytes(out)


def _write(out: bytearray, at: int, node: Node) -> None:
    """Append `node` and point the word at byte `at` to it."""
    match node:
        case None:
            pointer = 0
        case Capability(index=index):
            pointer = index << 32 | _OTHER
        case Struct(data=data, pointers=pointers):
            here = _relative(out, at) if data or pointers else -1  # an empty struct must not look like a null pointer
            pointer = (here << 2 & 0xFFFF_FFFF) | len(data) // WORD << 32 | len(pointers) << 48
            _write_struct(out, node)
        case bytes():
            pointer = _relative(out, at) << 2 | _LIST | _SIZE_BYTE << 32 | len(node) << 35
            out += node + bytes(-len(node) % WORD)
        case str():
            _write(out, at, node.encode() + b"\0")
            return
        case Structs(items=items):
            shape = items[0] if items else Struct()
            size = len(shape.data) // WORD + len(shape.pointers)
            pointer = _relative(out, at) << 2 | _LIST | _SIZE_COMPOSITE << 32 | size * len(items) << 35
            out += words(len(items) << 2 | len(shape.data) // WORD << 32 | len(shape.pointers) << 48)
            _write_all(out, items)
        case tuple():
            pointer = _relative(out, at) << 2 | _LIST | _SIZE_POINTER << 32 | len(node) << 35
            begin = len(out)
            out += bytes(WORD * len(node))
            for index, item in enumerate(node):
                _write(out, begin + WORD * index, item)
    out[at : at + WORD] = words(pointer)


def _relative(out: bytearray, at: int) -> int:
    return (len(out) - at) // WORD - 1


def _write_struct(out: bytearray, node: Struct) -> None:
    _write_all(out, (node,))


def _write_all(out: bytearray, items: tuple[Struct, ...]) -> None:
    """Structs side by side, then what their pointers need."""
    begins: list[int] = []
    for item in items:
        out += item.data
        begins.append(len(out))
        out += bytes(WORD * len(item.pointers))
    for item, begin in zip(items, begins, strict=True):
        for index, pointer in enumerate(item.pointers):
            _write(out, begin + WORD * index, pointer)
