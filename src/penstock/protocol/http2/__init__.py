"""HTTP/2 (RFC 9113) for the reversed link, from either end, without I/O.

An edge accepts a TCP connection and is the HTTP/2 *client* on it; an agent dials and is the *server*. A tunnelled
connection is one long stream, so the steady state is DATA frames: that path is a handful of operations, and everything
else is written for the reader.

What is left out on purpose: server push (refused), priorities (ignored, as RFC 9113 5.3 allows), CONNECT, and
`content-length` arithmetic (bodies are raw bytes both ways here, and nobody frames by that header).
"""

from __future__ import annotations

from penstock.protocol.errors import LocalProtocolError, RemoteProtocolError, StreamLimitError
from penstock.protocol.http2.connection import Connection, Holder
from penstock.protocol.http2.events import (
    DataReceived,
    Event,
    GoawayReceived,
    HeadersReceived,
    PingAcknowledged,
    SettingsChanged,
    StreamReset,
)
from penstock.protocol.http2.frames import ErrorCode
from penstock.protocol.http2.settings import Role, Settings
from penstock.protocol.http2.windows import WindowBudget

__all__ = [
    "Connection",
    "DataReceived",
    "ErrorCode",
    "Event",
    "GoawayReceived",
    "HeadersReceived",
    "Holder",
    "LocalProtocolError",
    "PingAcknowledged",
    "RemoteProtocolError",
    "Role",
    "Settings",
    "SettingsChanged",
    "StreamLimitError",
    "StreamReset",
    "WindowBudget",
]
