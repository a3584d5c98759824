"""What can go wrong on the wire, and whose mistake it is."""

from __future__ import annotations

from penstock.errors import PenstockError

PROTOCOL_ERROR = 0x1
"""RFC 9113 7: the code for a broken rule that has no code of its own; also what rooms without codes use."""


class LocalProtocolError(PenstockError):
    """Our side asked for something the protocol does not allow now; nothing was sent."""


class StreamLimitError(LocalProtocolError):
    """No stream can be opened on this connection: the peer's limit, a GOAWAY, or ids used up."""


class RemoteProtocolError(PenstockError):
    """The peer broke a rule. `code` is the HTTP/2 error code that tells it so (RFC 9113 7)."""

    def __init__(self, public: str, code: int = PROTOCOL_ERROR, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(public, detail=detail, hint=hint)
        self.code = code
