"""What goes between a caller's upgrade and an agent's stream: heads, both ways. Pure.

The agent answers an upgrade with 200, for HTTP/2 knows no 101, and packs the proxy's own head into one header.
"""

from __future__ import annotations

import http
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.net.link.stream import status_of
from penstock.protocol import metadata
from penstock.protocol.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.net.link.stream import Headers

BODY_LIMIT: Final = 8 * 1024
"""Of an answer that is no upgrade: a sentence, or another server's error page."""

_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}
# RFC 9110 7.6.1, and what this hop says itself.
_OF_ONE_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
_FRAMING: Final = _OF_ONE_HOP | {b"content-length"}
_OF_REQUEST: Final = _OF_ONE_HOP | {
    b"host",
    b"content-length",
    b"expect",
    metadata.REPLICA,
    metadata.HOP,
    metadata.HOP_REPLICA,
    metadata.CALLER,
}
_OF_RESPONSE: Final = _OF_ONE_HOP | {b"content-length", metadata.REPLICA, metadata.LINK, metadata.EDGE}


@dataclass(frozen=True, slots=True)
class Answer:
    """The proxy's answer as the agent passed it on."""

    status: int
    headers: Headers
    is_from_agent: bool
    """The agent speaks for itself: it could not reach the proxy."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by lower-case name."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def is_upgrade(self) -> bool:
        """Whether the stream is open: a 200 is one if the proxy accepted the WebSocket."""
        return self.status == 200 and self.header(b"sec-websocket-accept") is not None


def stream_request(host: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The request head that opens a stream, out of a caller's upgrade.

    Every control header a caller sent is dropped: with one of them it could reconfigure a stock agent, or have it dial an
    address of its choice inside the private network. The authority is the very host that was admitted.
    """
    return [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", host.encode("ascii")),
        (b":path", path.encode("ascii")),
        *((name, value) for name, value in headers if name not in _OF_REQUEST and not metadata.is_control_header(name)),
        (metadata.UPGRADE, metadata.WEBSOCKET),
    ]


def answer_of(head: Headers) -> Answer:
    """An agent's response head. TunnelError when it makes no sense."""
    fields = dict(head)
    try:
        packed = metadata.parse_headers(fields.get(metadata.RESPONSE_HEADERS, b""))
    except RemoteProtocolError as exc:
        raise TunnelError(TunnelErrorCode.AGENT_UNAVAILABLE, "the agent's answer cannot be read", detail=exc.public) from exc
    return Answer(
        status=status_of(head),
        headers=[(name.lower(), value) for name, value in packed if name.lower() not in _OF_RESPONSE],
        is_from_agent=metadata.is_from_agent(fields.get(metadata.RESPONSE_META, b"")),
    )


def refusal(answer: Answer, body: bytes, replica: str) -> bytes:
    """An HTTP/1.1 response out of an agent's answer that is no upgrade, whole."""
    kept = [(name, value) for name, value in answer.headers if name != b"sec-websocket-accept"]
    status = answer.status if 300 <= answer.status <= 599 else 502  # a 2xx that opened nothing would read as success
    if answer.header(metadata.ERROR) is None and answer.is_from_agent:  # a stock agent has no code of ours
        kept.append((metadata.ERROR, TunnelErrorCode.PROXY_UNREACHABLE.value.encode()))
    return refusal_of(status, [*kept, (metadata.REPLICA, replica.encode())], body)


def refusal_of(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """An HTTP/1.1 response that ends the connection, whole."""
    lines = [b"HTTP/1.1 %d %s" % (status, _PHRASES.get(status, "Refused").encode())]
    lines += [name + b": " + value for name, value in headers if name not in _FRAMING]
    lines += [b"content-length: %d" % len(body), b"connection: close", b"", body]
    return b"\r\n".join(lines)
