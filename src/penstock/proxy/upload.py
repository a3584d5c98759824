"""One request's way upstream: its head, and its body framed anew.

What of a body comes before there is a connection waits here, which the pipeline keeps short: it reads no more meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.proxy.bodies import encode_chunk, last_chunk
from penstock.proxy.heads import Framing, Header, RequestHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.proxy.upstream import UpstreamConnection

_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"})  # RFC 9110 9.2.2


class Upload:
    """`request` is the head sent upstream; is_whole: the caller has sent all of it."""

    __slots__ = ("_framing", "_is_repeated", "_method", "_request", "_waiting", "is_whole")

    def __init__(self, head: RequestHead, request: bytes) -> None:
        self._method = head.method
        self._framing = head.framing
        self._request = request
        self._waiting: list[bytes] | None = []  # None while there is a connection
        self._is_repeated = False
        self.is_whole = False

    @property
    def waits(self) -> bool:
        """Whether some of the body waits for a connection."""
        return bool(self._waiting)

    def data(self, data: bytes, connection: UpstreamConnection | None) -> None:
        """Some of the body."""
        if self._framing is Framing.CHUNKED:
            data = encode_chunk(data)
        if self._waiting is not None:
            self._waiting.append(data)
        elif connection is not None:
            connection.write(data)

    def end(self, trailers: Sequence[Header], connection: UpstreamConnection | None) -> None:
        """The body is whole."""
        if self._framing is Framing.CHUNKED:
            if self._waiting is not None:
                self._waiting.append(last_chunk(trailers))
            elif connection is not None:
                connection.write(last_chunk(trailers))
        self.is_whole = True

    def switch(self) -> None:
        """The answer was 101: what the caller sends from now on is the body, and has no end of its own."""
        self.is_whole = False

    def begin(self, *, is_bare: bool) -> bytes:
        """All there is so far, for a connection that was just had. is_bare: the body was empty until now."""
        waiting, self._waiting = self._waiting, None
        request = b"".join([self._request, *waiting]) if waiting else self._request
        if waiting or not self.may_be_repeated(is_bare=is_bare):
            self._request = b""
        return request

    def repeat(self) -> None:
        """It goes out once more, on a connection that is still to be had."""
        self._is_repeated = True
        self._waiting = []

    def may_be_repeated(self, *, is_bare: bool) -> bool:
        """RFC 9110 9.2.2: only what the upstream may see twice, once, and only while we still have all of it: no body."""
        return self._method in _IDEMPOTENT and is_bare and self.is_whole and not self._is_repeated

    def forget(self) -> None:
        """It will not be sent again."""
        self._request = b""
        self._waiting = None
