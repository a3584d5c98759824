"""Bytes to frames: the receiving half of a connection, and the one path that is hot, DATA."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.http2.events import DataReceived, Event
from penstock.protocol.http2.frames import HEADER, HEADER_SIZE, ID_MASK, PREFACE, ErrorCode, goaway
from penstock.protocol.http2.rules import judge
from penstock.protocol.http2.settings import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.protocol.http2.ledger import Ledger

_unpack = HEADER.unpack_from
_new = cast("Callable[[type[DataReceived], tuple[int, bytes, int, bool]], DataReceived]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]  # its stub leaves a hole
"""Makes the named tuple without its class's own `__new__`, which is a function in Python and as slow as one."""


class Inbox:
    """Cuts the input into frames, however it was split; keeps at most one incomplete frame."""

    __slots__ = ("_failure", "_half", "_ledger", "_limit", "_most", "_preface", "_rest")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._failure: RemoteProtocolError | None = None
        self._preface = b"" if ledger.role is Role.EDGE else PREFACE
        self._rest = bytearray()
        self._limit = ledger.settings.max_frame_size
        self._most = self._limit << 8 | 0xFF  # of a header's first word, whatever the frame's type
        self._half = ledger.settings.connection_window // 2

    def receive(self, data: bytes) -> list[Event]:
        """What the bytes mean. After the first RemoteProtocolError, that one again."""
        if self._failure is not None:
            raise self._failure
        events: list[Event] = []
        try:
            start = self._skip_preface(data) if self._preface else 0
            if self._rest:
                whole, start = self._complete(data, start)
                if whole is not None:
                    self._parse(whole, 0, events)
            start = self._parse(data, start, events)
            if start < len(data):
                self._rest += memoryview(data)[start:]
        except RemoteProtocolError as exc:
            self._failure = exc
            last_id = self._ledger.last_id if self._ledger.role is Role.AGENT else 0
            self._ledger.terminate()
            self._ledger.out.control(goaway(last_id, exc.code, exc.public.encode()))
            raise
        return events

    def _skip_preface(self, data: bytes) -> int:
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise RemoteProtocolError("the peer does not speak HTTP/2")
        self._preface = self._preface[size:]
        return size

    def _complete(self, data: bytes, start: int) -> tuple[bytes | None, int]:
        """Add to the incomplete frame what it lacks; the frame, if it is whole now, and where `data` goes on."""
        rest = self._rest
        view = memoryview(data)
        for size_known in (False, True):
            size = HEADER_SIZE + int.from_bytes(rest[:3], "big") if size_known else HEADER_SIZE
            if size - HEADER_SIZE > self._limit:
                raise _too_large()
            lacking = size - len(rest)
            if lacking > 0:
                rest += view[start : start + lacking]
                start = min(start + lacking, len(data))
                if len(rest) < size:
                    return None, start
        self._rest = bytearray()
        return bytes(rest), start

    def _parse(self, data: bytes, start: int, events: list[Event]) -> int:
        """All whole frames from `start` on; where the first incomplete one begins."""
        ledger = self._ledger
        streams, block = ledger.streams, ledger.block
        most, end = self._most, len(data)
        received = 0
        while end - start >= HEADER_SIZE:
            word, flags, stream_id = _unpack(data, start)
            if word > most:
                raise _too_large()
            length = word >> 8
            begin = start + HEADER_SIZE
            stop = begin + length
            if stop > end:
                break
            start = stop
            # A stream is only readable after its head, hence after SETTINGS. All else about DATA is judged at leisure.
            if word & 0xFF == 0 and not flags and block is None:
                stream = streams.get(stream_id)
                if stream is not None and stream.readable and (window := stream.window).credit >= length > 0:
                    window.credit -= length
                    received += length
                    events.append(_new(DataReceived, (stream_id, data[begin:stop], length, False)))
                    continue
            judge(ledger, word & 0xFF, flags, stream_id & ID_MASK, data[begin:stop], events)
            block = ledger.block
        ledger.uncredited += received
        if ledger.uncredited >= self._half:
            ledger.credit_connection()
        return start


def _too_large() -> RemoteProtocolError:
    return RemoteProtocolError("a frame is larger than announced", ErrorCode.FRAME_SIZE_ERROR)
