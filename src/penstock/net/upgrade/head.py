"""What both ends know of an upgrade's head."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# A head of ours is under 1 KiB; cookies and a company's own headers are what the rest is for.
HEAD_LIMIT: Final = 16_384
# Browsers send some 20, intermediaries add a few. On a link each is a field of its stream's head, which has a limit too.
FIELDS_LIMIT: Final = 100
# One round trip and patience; a slow-loris gets no more than this of a socket.
HEAD_TIMEOUT: Final = 10.0

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


def accept_for(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a header."""
    return next((value for key, value in headers if key == name), None)


def only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a header that is there once, else None."""
    values = [value for key, value in headers if key == name]
    return values[0] if len(values) == 1 else None


def tokens(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> set[bytes]:
    """The lower-case members of a header that is a list."""
    return {token.strip().lower() for key, value in headers if key == name for token in value.split(b",")}
