"""Which headers pass, which end here, and which are ours. Pure.

End-to-end headers pass with their spelling and order: MCP servers compare `Mcp-*` with the body, OAuth lives in
`Authorization` and `WWW-Authenticate`. No Via is added: nginx stops compressing when it sees one, and a loop through a
listener that only takes WebSocket upgrades cannot be made.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from penstock.proxy.heads import Framing, RequestHead, ResponseHead

if TYPE_CHECKING:
    from penstock.errors import TunnelError

# RFC 9110 7.6.1 and the ones that predate it. Content-Length, Transfer-Encoding and Host are written anew from what was
# parsed, Trailer and TE from what may pass.
_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length proxy-authenticate"
    b" proxy-authorization".split()
)
# Claims about who called and how, under every name in use: a caller could write anything into them.
_CLAIMS: Final = frozenset({b"forwarded", b"x-real-ip"})
_REQUEST_DROPS: Final = _HOP_BY_HOP | _CLAIMS | {b"host"}
_REQUEST_DROPS_AND_TOKEN: Final = _REQUEST_DROPS | {b"authorization"}
# Penstock-Error says that the tunnel answered and not the upstream: an upstream cannot say it.
_RESPONSE_DROPS: Final = _HOP_BY_HOP | {b"penstock-error"}
_SWITCH: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_FRAMES: Final = frozenset({b"close", b"keep-alive", b"host", b""})


def upstream_request(head: RequestHead, host: bytes | None, *, strips_token: bool = False) -> bytes:
    """The head sent upstream; `host` replaces the caller's Host, `strips_token` leaves Authorization out.

    X-Forwarded-For is not set: the proxy sees only the agent beside it, the relay's word for the caller's address is nobody's
    to believe, and 127.0.0.1 in it would make some servers trust the call as local.
    """
    drops = _REQUEST_DROPS_AND_TOKEN if strips_token else _REQUEST_DROPS
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, head.target, host or head.host)]
    lines += [
        b"%b: %b\r\n" % (name, value)
        for name, value in head.headers
        if (lower := name.lower()) not in drops and not lower.startswith(b"x-forwarded-")
    ]
    lines = _without_nominated(lines, head.options)
    if head.framing is Framing.LENGTH:
        lines.append(b"Content-Length: %d\r\n" % head.length)
    elif head.framing is Framing.CHUNKED:
        lines.append(_chunked(head))
    if head.is_upgrade:
        lines.append(_SWITCH)
    elif b"te" in head.options and _takes_trailers(head):
        lines.append(b"Connection: TE\r\nTE: trailers\r\n")
    lines.append(b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: %b\r\n\r\n" % head.host)
    return b"".join(lines)


def caller_response(head: ResponseHead, framing: Framing, *, closes: bool) -> bytes:
    """The head sent to the caller, its body framed by `framing`."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    lines += [b"%b: %b\r\n" % (name, value) for name, value in head.headers if name.lower() not in _RESPONSE_DROPS]
    lines = _without_nominated(lines, head.options)
    if framing is Framing.CHUNKED:
        lines.append(_chunked(head))
    elif framing is Framing.LENGTH:
        lines.append(b"Content-Length: %d\r\n" % head.length)
    elif framing is Framing.NONE and head.status >= 200 and head.status != 204:
        # An answer to HEAD, and 304: the length of what was not sent (RFC 9110 8.6).
        lines += [b"Content-Length: %b\r\n" % value for name, value in head.headers if name.lower() == b"content-length"]
    if head.status == 101:
        lines.append(_SWITCH)
    lines.append(b"Connection: close\r\n\r\n" if closes else b"\r\n")
    return b"".join(lines)


def refusal(error: TunnelError, *, closes: bool, is_head_request: bool) -> bytes:
    """The tunnel's own answer: text, so that no MCP client takes it for its server's (`error.public` alone is told)."""
    body = error.public.encode() + b"\n"
    more = b"Retry-After: %d\r\n" % error.retry_after if error.retry_after is not None else b""
    if error.challenge is not None:
        more += b"WWW-Authenticate: %b\r\n" % error.challenge.encode("ascii")
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: text/plain; charset=utf-8\r\nPenstock-Error: %b\r\n%bContent-Length: %d\r\n%b\r\n%b"
        % (
            error.status,
            HTTPStatus(error.status).phrase.encode(),
            error.code.value.encode(),
            more,
            len(body),
            b"Connection: close\r\n" if closes else b"",
            b"" if is_head_request else body,
        )
    )


def _chunked(head: RequestHead | ResponseHead) -> bytes:
    if not head.trailers:
        return b"Transfer-Encoding: chunked\r\n"
    return b"Transfer-Encoding: chunked\r\nTrailer: %b\r\n" % b", ".join(head.trailers)


def _takes_trailers(head: RequestHead) -> bool:
    codings = [coding.strip() for name, value in head.headers if name.lower() == b"te" for coding in value.lower().split(b",")]
    return b"trailers" in codings


def _without_nominated(lines: list[bytes], options: frozenset[bytes]) -> list[bytes]:
    """Headers that Connection names are for this hop alone (RFC 9110 7.6.1); Host is written by us, and nobody's to remove."""
    nominated = options - _FRAMES
    if not nominated:
        return lines
    return [line for line in lines if line.partition(b":")[0].lower() not in nominated]
