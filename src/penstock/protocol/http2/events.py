"""What a connection reports. Named tuples: as frozen as a dataclass, a third of its cost, and DATA frames are many."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from penstock.protocol.http2.frames import ErrorCode

_NAMES: Final = {int(code): code.name for code in ErrorCode}
_TEXT: Final = 100


class HeadersReceived(NamedTuple):
    """A head: of a request (AGENT), of a response, interim or final (EDGE), or the trailers of either (no `:` names)."""

    stream_id: int
    headers: list[tuple[bytes, bytes]]
    end_stream: bool


class DataReceived(NamedTuple):
    """Payload. Give `flow_controlled` back through `Connection.consumed`, at once or piecemeal, as the reader takes it.

    `data` is a copy of its own: keeping it keeps nothing else alive. Padding was credited already and is not counted.
    """

    stream_id: int
    data: bytes
    flow_controlled: int
    end_stream: bool


class StreamReset(NamedTuple):
    """The stream is gone, with all that was queued on it.

    `by_peer` is False when we reset it because the peer broke a rule. A Go server whose handler returns before it has read
    the whole request ends the stream cleanly and then resets it with NO_ERROR: after an end, code 0 is no failure.
    """

    stream_id: int
    code: int
    by_peer: bool = True


class PingAcknowledged(NamedTuple):
    """The peer answered `Connection.ping`."""

    opaque: bytes


class SettingsChanged(NamedTuple):
    """The peer's SETTINGS are in force; the first one says that it speaks HTTP/2."""

    max_concurrent_streams: int


class GoawayReceived(NamedTuple):
    """The peer takes no more streams. Ours above `last_stream_id` were reported as reset with REFUSED_STREAM just before."""

    last_stream_id: int
    code: int
    debug: bytes

    @property
    def reason(self) -> str:
        """The code's name and what else the peer says, for a log: printable, and not much of it."""
        name = _NAMES.get(self.code, f"code {self.code}")
        text = self.debug[:_TEXT].decode("ascii", "replace")
        said = "".join(letter for letter in text if letter.isprintable())
        return f"{name}, {said}" if said else name


Event: TypeAlias = HeadersReceived | DataReceived | StreamReset | PingAcknowledged | SettingsChanged | GoawayReceived
