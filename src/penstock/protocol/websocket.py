"""WebSocket (RFC 6455) as a byte pipe, from either end: bytes in, payload and events out, and frames of what is sent.

Message and fragment bounds mean nothing here: binary and continuation frames are payload, handed out as it comes, so no
frame is ever held whole and its length costs nothing. Text is refused (1003), there are no extensions, and control frames
keep every rule of the RFC. Masking keys are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

# What a frame of ours carries at most: its peer may hold a frame whole, and a ping waits behind no more than this.
FRAME_LIMIT: Final = 16_384
CONTROL_LIMIT: Final = 125  # RFC 6455 5.5
REASON_LIMIT: Final = 123  # a Close spends two of them on its code

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
INVALID_TEXT: Final = 1007
POLICY: Final = 1008

_CONTINUATION: Final = 0x0
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_NO_MASK: Final = b"\0\0\0\0"
_HEAD_MOST: Final = 8  # of a frame in 16 bits of length

# Up to here one big-integer XOR wins (1 µs for 64 bytes); above, four table look-ups over every fourth byte (38 µs for
# 16 KiB, where the integers take 70). Measured in CPython 3.11; the crossing is flat.
_INTEGER_LIMIT: Final = 1024


class Role(Enum):
    """Which end of the WebSocket this is: the client masks what it sends, the server must not."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Ping:
    """The peer asks for a pong with the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer is there; it may come unasked."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The peer is done and says why; `code` is None where it gave none. Nothing follows."""

    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer broke the protocol: answer with a Close of this code and reason. Nothing follows."""

    code: int
    reason: str


Event: TypeAlias = bytes | Ping | Pong | Close | Violation
"""`bytes` is payload."""


class _Broken(Exception):  # noqa: N818 - carries a violation to the one place that reports it
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.violation = Violation(code, reason)


class WebSocketCodec:
    """One end of one connection.

    Any split of the same input gives the same payload and the same events. Between calls it keeps at most one control
    frame (131 bytes), and nothing at all between frames.
    """

    __slots__ = ("_done", "_entropy", "_head", "_left", "_mask", "_role")

    def __init__(self, role: Role, entropy: Callable[[int], bytes]) -> None:
        self._role = role
        self._entropy = entropy
        self._head = b""  # the beginning of a frame whose head, or whose control payload, is not all here
        self._left = 0  # payload bytes of the current data frame still to come
        self._mask = _NO_MASK  # turned, so that its first byte is for the next payload byte
        self._done = False

    # --- what comes -------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> list[Event]:
        """Payload and events in `data`. After a Close or a Violation there are none any more."""
        if not (self._left or self._head or self._done):
            payload = self._whole_frame(data)
            if payload:
                return [payload]
        events: list[Event] = []
        if self._done:
            return events
        if self._head:
            data, self._head = self._head + data, b""
        try:
            self._parse(data, events)
        except _Broken as broken:
            self._done = True
            events.append(broken.violation)
        return events

    def _whole_frame(self, data: bytes) -> bytes:
        """The payload, where `data` is one binary frame in 16 bits of length and nothing else, as nearly always; else b""."""
        size = len(data)
        if size < _HEAD_MOST or data[0] != _FIN | _BINARY:
            return b""
        second = data[1]
        length, start = second & 0x7F, 2
        if length == 126:
            length, start = data[2] << 8 | data[3], 4
            if length < 126:
                return b""
        elif length == 127:
            return b""
        if self._role is Role.SERVER:
            start += 4
            if not second & _MASKED or size != start + length:
                return b""
            return apply_mask(data[start:], data[start - 4 : start])
        return b"" if second & _MASKED or size != start + length else data[start:]

    def _parse(self, data: bytes, events: list[Event]) -> None:
        position, size = 0, len(data)
        while position < size:
            left = self._left
            if left:
                available = size - position
                taken = min(left, available)
                piece = data if taken == size else data[position : position + taken]
                mask = self._mask
                if mask != _NO_MASK:
                    piece = apply_mask(piece, mask)
                    turn = taken & 3
                    self._mask = mask[turn:] + mask[:turn]
                events.append(piece)
                self._left = left - taken
                position += taken
                continue
            used = self._begin_frame(data, position, events)
            if not used:
                self._head = data[position:]
                return
            if self._done:
                return
            position += used

    def _begin_frame(self, data: bytes, start: int, events: list[Event]) -> int:
        """Take a frame's head, and a control frame whole; 0 where more is needed."""
        available = len(data) - start
        first = data[start]
        opcode = first & 0x0F
        self._check_first(first, opcode)
        if available < 2:
            return 0
        second = data[start + 1]
        masked = second & _MASKED
        if bool(masked) is not (self._role is Role.SERVER):
            raise _Broken(PROTOCOL_ERROR, "a client masks and a server does not")  # RFC 6455 5.1
        length = second & 0x7F
        if opcode >= _CLOSE and length > CONTROL_LIMIT:
            raise _Broken(PROTOCOL_ERROR, "a control frame is too long")
        head = 2
        if length >= 126:
            wide = 2 if length == 126 else 8
            head += wide
            if available < head:
                return 0
            length = int.from_bytes(data[start + 2 : start + head], "big")
            if length < 126 or (wide == 8 and not 0xFFFF < length < 1 << 63):  # RFC 6455 5.2: the shortest form
                raise _Broken(PROTOCOL_ERROR, "a frame's length is malformed")
        mask = _NO_MASK
        if masked:
            head += 4
            if available < head:
                return 0
            mask = data[start + head - 4 : start + head]
        if opcode < _CLOSE:
            self._left, self._mask = length, mask
            return head
        if available < head + length:
            return 0
        payload = data[start + head : start + head + length]
        events.append(self._control(opcode, apply_mask(payload, mask)))
        return head + length

    def _check_first(self, first: int, opcode: int) -> None:
        if first & _RESERVED:
            raise _Broken(PROTOCOL_ERROR, "no extension was negotiated")
        if opcode == _TEXT:
            raise _Broken(UNSUPPORTED_DATA, "text frames are not taken here")
        if opcode not in {_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG}:
            raise _Broken(PROTOCOL_ERROR, "unknown opcode")
        if opcode >= _CLOSE and not first & _FIN:
            raise _Broken(PROTOCOL_ERROR, "a control frame is fragmented")

    def _control(self, opcode: int, payload: bytes) -> Event:
        if opcode == _PING:
            return Ping(payload)
        if opcode == _PONG:
            return Pong(payload)
        self._done = True
        if not payload:
            return Close(None, "")
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not _is_sendable(code):
            raise _Broken(PROTOCOL_ERROR, "a Close carries no valid code")
        try:
            return Close(code, payload[2:].decode())
        except UnicodeDecodeError:
            raise _Broken(INVALID_TEXT, "a Close's reason is not UTF-8") from None

    # --- what goes --------------------------------------------------------------------------------------------------

    def payload(self, data: bytes | bytearray | memoryview) -> bytes:
        """The frames that carry `data`; the caller bounds its length."""
        if isinstance(data, memoryview):
            data = bytes(data)
        if len(data) <= FRAME_LIMIT:
            return self._frame(_BINARY, data)
        return b"".join([self._frame(_BINARY, data[start : start + FRAME_LIMIT]) for start in range(0, len(data), FRAME_LIMIT)])

    def ping(self, payload: bytes = b"") -> bytes:
        """A Ping frame; `payload` is at most 125 bytes."""
        return self._frame(_PING, payload[:CONTROL_LIMIT])

    def pong(self, payload: bytes = b"") -> bytes:
        """A Pong frame, the answer to a Ping's payload or a sign of life."""
        return self._frame(_PONG, payload[:CONTROL_LIMIT])

    def close(self, code: int, reason: str = "") -> bytes:
        """A Close frame; a long reason is cut at a character's end."""
        if not _is_sendable(code):
            msg = f"{code} is not for Close frames"
            raise ValueError(msg)
        text = reason.encode()[:REASON_LIMIT].decode(errors="ignore").encode()
        return self._frame(_CLOSE, code.to_bytes(2, "big") + text)

    def _frame(self, opcode: int, payload: bytes | bytearray) -> bytes:
        size = len(payload)
        mask_bit = _MASKED if self._role is Role.CLIENT else 0
        if size < 126:
            head = bytes((_FIN | opcode, mask_bit | size))
        else:  # FRAME_LIMIT fits two bytes
            head = bytes((_FIN | opcode, mask_bit | 126, size >> 8, size & 0xFF))
        if not mask_bit:
            return head + payload
        mask = self._entropy(4)
        return b"".join((head, mask, apply_mask(payload, mask)))


def _is_sendable(code: int) -> bool:
    """RFC 6455 7.4: what may stand in a Close frame; 1004 to 1006 and 1015 may not."""
    return (1000 <= code <= 1014 and code not in {1004, 1005, 1006}) or 3000 <= code <= 4999


def mask_in_python(data: bytes | bytearray, mask: bytes) -> bytes:
    """As `apply_mask`, where there is no C for it."""
    size = len(data)
    if size <= _INTEGER_LIMIT:
        key = (mask * ((size + 3) >> 2))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
    out = bytearray(size)
    for place in range(4):
        out[place::4] = data[place::4].translate(_TABLES[mask[place]])
    return bytes(out)


_COUNTING: Final = int.from_bytes(bytes(range(256)), "little")
_ONES: Final = int.from_bytes(b"\1" * 256, "little")
_TABLES: Final = tuple((_COUNTING ^ (_ONES * key)).to_bytes(256, "little") for key in range(256))

try:
    from websockets.speedups import apply_mask as _xor
except ImportError:
    _xor = mask_in_python


def apply_mask(data: bytes | bytearray, mask: bytes) -> bytes:
    """RFC 6455 5.3: each byte XOR the mask's byte at the same place, modulo four. Its own inverse."""
    if mask == _NO_MASK:  # what some peers send, whose payload is ciphertext anyway
        return bytes(data)
    return _xor(data, mask)
