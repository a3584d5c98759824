"""Where a body ends: lengths counted, chunks decoded strictly, everything passed on as it comes. Pure.

A decoder takes bytes and gives back the payload in them, says when the body is over, and hands back what came after it: the
next request, or bytes that have no business there. Chunk extensions are dropped (RFC 9112 7.1.1), and trailers that were not
announced or must not be one (7.1.2): a recipient that knows none of them must ignore the first and may discard the second.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from penstock.proxy.heads import Framing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.proxy.heads import Header

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_CHUNK_LINE: Final = re.compile(  # RFC 9112 7.1: no white space before the size, none after it but in extensions
    rb"([0-9A-Fa-f]{1,15})(?:[\t ]*+;[\t ]*+"
    + _TOKEN
    + rb"(?:[\t ]*+=[\t ]*+(?:"
    + _TOKEN
    + rb'|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"))?)*+'
)
_TRAILER: Final = re.compile(_TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+")
_CHUNK_LINE_MOST: Final = 256  # nobody sends extensions; without a bound they are a body that is never counted
_TRAILERS_MOST: Final = 8192


class BodyError(Exception):
    """The body breaks its framing: its sender is not to be believed any more."""


class Body(Protocol):
    """A body on its way."""

    is_over: bool
    rest: bytes  # what came after the body's end
    trailers: Sequence[Header]  # the ones that pass, once it is over

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`; BodyError. What follows the body's end waits in `rest`."""
        ...

    def end(self) -> None:
        """The sender closed cleanly; BodyError when the body was not over."""
        ...


def make_body(framing: Framing, length: int, trailers: Sequence[bytes] = ()) -> Body:
    """The decoder for a framing; `trailers` are the names that pass, in lower case."""
    if framing is Framing.CHUNKED:
        return ChunkedBody(trailers)
    if framing is Framing.CLOSE:
        return CloseBody()
    return LengthBody(length if framing is Framing.LENGTH else 0)


class LengthBody:
    """Content-Length, or no body at all."""

    __slots__ = ("_left", "is_over", "rest")
    trailers: Sequence[Header] = ()

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_over = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """As `Body.feed`."""
        size = len(data)
        if size < self._left:
            self._left -= size
            return data
        data, self.rest = data[: self._left], data[self._left :]
        self._left = 0
        self.is_over = True
        return data

    def end(self) -> None:
        """As `Body.end`."""
        if not self.is_over:
            raise BodyError(f"{self._left} bytes of the body are missing")


class CloseBody:
    """Until the sender closes cleanly."""

    __slots__ = ("is_over", "rest")
    trailers: Sequence[Header] = ()

    def __init__(self) -> None:
        self.is_over = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """As `Body.feed`."""
        return data

    def end(self) -> None:
        """As `Body.end`."""
        self.is_over = True


class ChunkedBody:
    """Chunked transfer coding, decoded."""

    __slots__ = ("_announced", "_is_last", "_left", "_line", "_trailers", "is_over", "rest", "trailers")

    def __init__(self, announced: Sequence[bytes] = ()) -> None:
        self._announced = announced
        self._left = 0  # of the chunk's payload and the line end behind it; 0 is between chunks
        self._line = b""  # the beginning of a line whose end has not come
        self._is_last = False
        self._trailers = 0  # their bytes
        self.trailers: Sequence[Header] = ()
        self.is_over = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """As `Body.feed`."""
        if self._left > len(data) + 1:  # the middle of a large chunk: nothing to look at, nothing to copy
            self._left -= len(data)
            return data
        if self._line:
            data, self._line = self._line + data, b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.is_over:
            at = self._chunk(data, at, pieces) if self._left else self._next_line(data, at, pieces)
        if self.is_over:
            self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> None:
        """As `Body.end`."""
        if not self.is_over:
            raise BodyError("the last chunk is missing")

    def _chunk(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """`_left` counts the payload and its CRLF: 2 is the CR's turn, 1 the LF's."""
        if self._left > 2:
            piece = data[at : at + self._left - 2]
            pieces.append(piece)
            self._left -= len(piece)
            return at + len(piece)
        if data[at] != (0x0D if self._left == 2 else 0x0A):
            raise BodyError("a chunk is longer than its size")
        self._left -= 1
        return at + 1

    def _next_line(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        end = data.find(b"\r\n", at)
        most = _TRAILERS_MOST if self._is_last else _CHUNK_LINE_MOST
        if (end if end >= 0 else len(data)) - at > most:
            raise BodyError("a chunk's first line is too long")
        if end < 0:
            self._line = data[at:]
            if b"\n" in self._line:
                raise BodyError("a line of the chunked body ends in a bare line feed")
            return len(data)
        if self._is_last:
            self._trailer(data[at:end])
            return end + 2
        match = _CHUNK_LINE.fullmatch(data, at, end)
        if match is None:
            raise BodyError("a chunk's size is malformed")
        size = int(match[1], 16)
        start, stop = end + 2, end + 2 + size
        if not size:
            self._is_last = True
        elif data[stop : stop + 2] == b"\r\n":  # all of it is here, as nearly always
            pieces.append(data[start:stop])
            return stop + 2
        else:
            self._left = size + 2
        return start

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.is_over = True
            return
        self._trailers += len(line) + 2
        if self._trailers > _TRAILERS_MOST:
            raise BodyError("the trailers are too long")
        if _TRAILER.fullmatch(line) is None:
            raise BodyError("a trailer is malformed")
        name, _, value = line.partition(b":")
        if name.lower() in self._announced:
            self.trailers = [*self.trailers, (name, value.strip(b" \t"))]


def encode_chunk(payload: bytes) -> bytes:
    """`payload` as one chunk; it must not be empty, for that would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: Sequence[Header]) -> bytes:
    """The end of a chunked body."""
    if not trailers:
        return _LAST_CHUNK
    return b"0\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % trailer for trailer in trailers)


_LAST_CHUNK: Final = b"0\r\n\r\n"
