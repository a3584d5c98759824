"""One stream's answers on their way to the caller: framed anew, and written in one piece a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.proxy.bodies import encode_chunk, last_chunk
from penstock.proxy.headers import caller_response, refusal
from penstock.proxy.heads import Framing
from penstock.proxy.repeats import Repeat

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from penstock.errors import TunnelError
    from penstock.proxy.heads import Header, RequestHead, ResponseHead


class Download:
    """`keeps_alive`: whether the stream goes on behind the answer under way."""

    __slots__ = ("_framing", "_is_head_request", "_out", "_rewrite", "keeps_alive")

    def __init__(self) -> None:
        self._framing = Framing.NONE
        self._is_head_request = False
        self._out: list[bytes] = []
        self._rewrite = Repeat(caller_response)
        self.keeps_alive = True

    def begin(self, head: RequestHead) -> None:
        """What is sent from now on answers this request."""
        self._is_head_request = head.method == b"HEAD"
        self._framing = Framing.CLOSE if head.is_http_1_0 else Framing.CHUNKED
        self.keeps_alive = head.keeps_alive

    def begin_unread(self) -> None:
        """What is sent now answers a request whose head was not taken."""
        self._is_head_request = False

    def inform(self, head: ResponseHead) -> None:
        """A 1xx."""
        if self._framing is Framing.CHUNKED:  # HTTP/1.0 knows no 1xx
            self._out.append(caller_response(head, Framing.NONE, closes=False))

    def respond(self, head: ResponseHead) -> None:
        """The response's head."""
        if head.framing is Framing.LENGTH or head.framing is Framing.NONE:
            self._framing = head.framing
        elif self._framing is Framing.CLOSE:
            self.keeps_alive = False
        self._out.append(self._rewrite(head, self._framing, closes=not self.keeps_alive))

    def switch(self, head: ResponseHead) -> None:
        """The 101; what follows is bytes."""
        self.keeps_alive = False
        self._framing = Framing.CLOSE
        self._out.append(caller_response(head, Framing.CLOSE, closes=False))

    def data(self, data: bytes) -> None:
        """Some of the response's body."""
        self._out.append(encode_chunk(data) if self._framing is Framing.CHUNKED else data)

    def end(self, trailers: Sequence[Header]) -> None:
        """The response is whole."""
        if self._framing is Framing.CHUNKED:
            self._out.append(last_chunk(trailers))

    def refuse(self, error: TunnelError, *, closes: bool) -> None:
        """The tunnel's own answer, whole."""
        self._out.append(refusal(error, closes=closes, is_head_request=self._is_head_request))

    def flush(self, transport: asyncio.Transport | None) -> None:
        """Write what there is."""
        out = self._out
        if not out or transport is None:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        transport.write(data)

    def clear(self) -> None:
        """Nobody is there to read it."""
        self._out.clear()
