"""The shape of frames (RFC 9113 4 and 6): numbers, how they are packed, and small frames ready to send."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEADER: Final = Struct(">LBL")
"""Nine bytes: length and type in one number (24 bits have no format letter), `length << 8 | type`; flags; stream id."""
HEADER_SIZE: Final = 9
WORD: Final = Struct(">L")
SETTING: Final = Struct(">HL")
PRIORITY_SIZE: Final = 5
ID_MASK: Final = 0x7FFF_FFFF
"""RFC 9113 4.1: the reserved bit is ignored on receipt."""


class FrameType(IntEnum):
    """RFC 9113 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


# Flags; one bit means different things on different frames.
END_STREAM: Final = 0x01
ACK: Final = 0x01
END_HEADERS: Final = 0x04
PADDED: Final = 0x08
PRIORITY: Final = 0x20


class ErrorCode(IntEnum):
    """RFC 9113 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class SettingId(IntEnum):
    """RFC 9113 6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def rst_stream(stream_id: int, code: int) -> bytes:
    """RST_STREAM (6.4)."""
    return frame(FrameType.RST_STREAM, 0, stream_id, WORD.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE (6.9); stream 0 is the connection."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, WORD.pack(increment))


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """GOAWAY (6.8)."""
    return frame(FrameType.GOAWAY, 0, 0, WORD.pack(last_stream_id) + WORD.pack(code) + debug)


def header_frames(stream_id: int, block: bytes, *, end_stream: bool, max_size: int) -> bytes:
    """HEADERS and as many CONTINUATIONs as the peer's frame size needs (6.2, 6.10), in one piece: nothing may come between."""
    kind, flags = FrameType.HEADERS, END_STREAM if end_stream else 0
    if len(block) <= max_size:
        return frame(kind, flags | END_HEADERS, stream_id, block)
    pieces: list[bytes] = []
    for start in range(0, len(block), max_size):
        last = END_HEADERS if start + max_size >= len(block) else 0
        pieces.append(frame(kind, flags | last, stream_id, block[start : start + max_size]))
        kind, flags = FrameType.CONTINUATION, 0
    return b"".join(pieces)
