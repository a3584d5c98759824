"""Heads: HPACK (RFC 7541, from the `hpack` library), a block put together from its frames, and what makes one malformed."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from hpack import Decoder, Encoder, HPACKError

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.http2.frames import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.protocol.http2.settings import Settings

Headers = list[tuple[bytes, bytes]]

_FIELD_OVERHEAD: Final = 32  # RFC 7541 4.1
_TABLE_SIZE: Final = 4096
_FOR_THE_TABLE: Final = 8
"""How many times the allowed fields a head may have and still be decoded, for HPACK's state, and then cost its stream alone."""
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")  # RFC 9113 8.2.1: tokens, no upper case
_BAD_VALUE: Final = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$")
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")
_CONNECTION_SPECIFIC: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_REQUEST: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_REQUIRED: Final = frozenset({b":method", b":scheme", b":path"})
_RESPONSE: Final = frozenset({b":status"})


class Kind(Enum):
    """What a head is."""

    REQUEST = auto()
    RESPONSE = auto()
    TRAILERS = auto()


class HeaderCodec:
    """Both directions of one connection's HPACK state."""

    __slots__ = ("_decoder", "_encoder", "_max_fields", "_max_work")

    def __init__(self, settings: Settings) -> None:
        self._max_fields = settings.max_header_fields * _FOR_THE_TABLE
        self._max_work = settings.max_header_fields * settings.max_header_block
        self._encoder = Encoder()
        self._decoder = Decoder(max_header_list_size=settings.max_header_list)

    def set_peer_table_size(self, size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE; we use no more than the RFC's default whatever it offers."""
        size = min(size, _TABLE_SIZE)
        if size != self._encoder.header_table_size:
            self._encoder.header_table_size = size

    def encode(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """A header block. Without Huffman coding: a head opens a stream that lives for minutes, its bytes do not matter."""
        return self._encoder.encode(headers, huffman=False)

    def decode(self, block: bytes) -> Headers:
        """A head out of a whole block; a block that cannot be decoded breaks the connection (RFC 9113 4.3).

        So does one of so many fields that decoding it takes too long. Fewer are decoded, and `malformed` judges them: a mistake
        of one stream must not cost the others, and without decoding, this side's HPACK state would be lost.
        """
        fields = count_fields(block, self._max_fields)
        if fields > self._max_fields or fields * len(block) > self._max_work:
            raise RemoteProtocolError("a head has far too many fields", ErrorCode.ENHANCE_YOUR_CALM)
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except (HPACKError, IndexError, ValueError) as exc:
            raise RemoteProtocolError(
                "a header block cannot be decoded", ErrorCode.COMPRESSION_ERROR, detail=f"{type(exc).__name__}: {exc}"[:200]
            ) from None


def count_fields(block: bytes, limit: int) -> int:
    """How many representations a block has, found by skipping over them (RFC 7541 6); not counted past `limit` + 1.

    Looked at before decoding: hpack copies the rest of the block at every literal, so that 256 KiB of one-letter fields, well
    within the size limits, take it a second. A broken block counts up to its break; decoding then says what is wrong.
    """
    fields, at, end = 0, 0, len(block)
    while at < end:
        fields += 1
        if fields > limit:
            break
        first = block[at]
        prefix = 7 if first & 0x80 else 6 if first & 0x40 else 5 if first & 0x20 else 4
        index, at = _integer(block, at, prefix)
        if prefix in {6, 4}:  # a literal: its value, and before that its name unless the index has it
            for _ in range(1 if index else 2):
                length, at = _integer(block, at, 7)
                at += length
    return fields


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """RFC 7541 5.1: a number and where the next thing begins; past the end there are zeros."""
    mask = (1 << prefix) - 1
    number = (block[at] & mask) if at < len(block) else 0
    at += 1
    if number == mask:
        shift = 0
        while at < len(block) and shift < 32:
            byte = block[at]
            at += 1
            number += (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
    return number, at


class HeaderBlock:
    """A HEADERS frame and the CONTINUATIONs that follow it; one a connection, since nothing may come between them."""

    __slots__ = ("_fragments", "_settings", "_size", "end_stream", "stream_id")

    def __init__(self, stream_id: int, *, end_stream: bool, settings: Settings) -> None:
        self.stream_id = stream_id
        self.end_stream = end_stream
        self._settings = settings
        self._fragments: list[bytes] = []
        self._size = 0

    def add(self, fragment: bytes) -> None:
        """Another fragment, within the limits."""
        self._fragments.append(fragment)
        self._size += len(fragment)
        settings = self._settings
        if self._size > settings.max_header_block or len(self._fragments) > 1 + settings.max_continuations:
            raise RemoteProtocolError("a header block is too large", ErrorCode.ENHANCE_YOUR_CALM)

    def join(self) -> bytes:
        """The whole block."""
        return b"".join(self._fragments)


def list_size(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The size a peer's SETTINGS_MAX_HEADER_LIST_SIZE speaks of."""
    return sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in headers)


def is_interim(headers: Headers) -> bool:
    """Whether a well-formed response head is a 1xx one, with the final one still to come (RFC 9113 8.1)."""
    return headers[0][1].startswith(b"1")


def malformed(headers: Headers, kind: Kind, max_fields: int) -> str | None:
    """Why a head is malformed (RFC 9113 8.2, 8.3) or too long, or None. The answer to such a head is a stream error."""
    if len(headers) > max_fields:
        return "a head has too many fields"
    pseudo: dict[bytes, bytes] = {}
    fields = False
    for name, value in headers:
        if _BAD_VALUE.search(value):
            return "a field value has forbidden characters"
        if name.startswith(b":"):
            if fields:
                return "a pseudo-header follows a field"
            if name in pseudo:
                return "a pseudo-header is there twice"
            pseudo[name] = value
            continue
        fields = True
        if _NAME.fullmatch(name) is None:
            return "a field name has forbidden characters"
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
            return "a field is connection-specific"
    return _check_pseudo(pseudo, kind)


def _check_pseudo(pseudo: dict[bytes, bytes], kind: Kind) -> str | None:
    names = pseudo.keys()
    match kind:
        case Kind.TRAILERS:
            return "trailers have a pseudo-header" if names else None
        case Kind.RESPONSE:
            lawful = names == _RESPONSE and _STATUS.fullmatch(pseudo[b":status"])
            return None if lawful else "a response needs :status alone"
        case Kind.REQUEST:
            lawful = names >= _REQUIRED and names <= _REQUEST and pseudo[b":path"] and pseudo[b":method"]
            return None if lawful else "a request needs :method, :scheme and :path"
