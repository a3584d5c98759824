"""Which headers pass, which end here, and which are ours. Pure.

End-to-end headers pass with their spelling and order: MCP servers compare `Mcp-*` with the body, OAuth lives in
`Authorization` and `WWW-Authenticate`. No Via is added: nginx stops compressing when it sees one, and a loop through a
listener that only takes WebSocket upgrades cannot be made.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from penstock.proxy.heads import Framing, RequestHead, ResponseHead, values

if TYPE_CHECKING:
    from penstock.errors import TunnelError

# RFC 9110 7.6.1 and the ones that predate it. Content-Length, Transfer-Encoding and Host are written anew from what was
# parsed, Trailer and TE from what may pass.
_HOP_BY_HOP: Final = (
    rb"connection|content-length|keep-alive|te|trailer|transfer-encoding|upgrade"
    rb"|proxy-(?:connection|authenticate|authorization)"
)
# Claims about who called and how, under every name in use: a caller could write anything into them.
_CLAIMS: Final = rb"forwarded|x-(?:real-ip|forwarded-[^:]*)"


def _lines(names: bytes) -> re.Pattern[bytes]:
    """Whole lines of `RequestHead.fields`: no value has a line end in it, so a name behind one is a header's.

    Spelled with underscores as well: CGI and WSGI servers make one name of both.
    """
    return re.compile(rb"\r\n(?:" + names.replace(b"-", b"[-_]") + rb"):[^\r]*", re.IGNORECASE)


_NOT_UPSTREAM: Final = _lines(_HOP_BY_HOP + b"|host|" + _CLAIMS)
# Penstock-Error says that the tunnel answered and not the upstream: an upstream cannot say it.
_NOT_TO_CALLERS: Final = _lines(_HOP_BY_HOP + b"|penstock-error")
_TOKEN: Final = _lines(b"authorization")
_SWITCH: Final = b"\r\nConnection: Upgrade\r\nUpgrade: websocket"
_FRAMES: Final = frozenset({b"close", b"keep-alive", b"host", b""})


def upstream_request(head: RequestHead, host: bytes | None, *, strips_token: bool = False) -> bytes:
    """The head sent upstream; `host` replaces the caller's Host, `strips_token` leaves Authorization out.

    X-Forwarded-For is not set: the proxy sees only the agent beside it, the relay's word for the caller's address is nobody's
    to believe, and 127.0.0.1 in it would make some servers trust the call as local.
    """
    fields = _NOT_UPSTREAM.sub(b"", head.fields)
    if strips_token:
        fields = _TOKEN.sub(b"", fields)
    if head.options:
        fields = _without_nominated(fields, head.options)
    framing = _framing(head, head.framing)
    if head.is_upgrade:
        framing += _SWITCH
    elif b"te" in head.options and _takes_trailers(head):
        framing += b"\r\nConnection: TE\r\nTE: trailers"
    return b"%b %b HTTP/1.1\r\nHost: %b%b%b\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: %b\r\n\r\n" % (
        head.method,
        head.target,
        host or head.host,
        fields,
        framing,
        head.host,
    )


def caller_response(head: ResponseHead, framing: Framing, *, closes: bool) -> bytes:
    """The head sent to the caller, its body framed by `framing`."""
    fields = _NOT_TO_CALLERS.sub(b"", head.fields)
    if head.options:
        fields = _without_nominated(fields, head.options)
    more = _framing(head, framing)
    if framing is Framing.NONE and head.status >= 200 and head.status != 204:
        # An answer to HEAD, and 304: the length of what was not sent (RFC 9110 8.6).
        more = b"".join([b"\r\nContent-Length: %b" % value for value in values(head.fields, b"content-length")])
    if head.status == 101:
        more += _SWITCH
    if closes:
        more += b"\r\nConnection: close"
    return b"HTTP/1.1 %d %b%b%b\r\n\r\n" % (head.status, head.reason, fields, more)


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


def _framing(head: RequestHead | ResponseHead, framing: Framing) -> bytes:
    if framing is Framing.LENGTH:
        return b"\r\nContent-Length: %d" % head.length
    if framing is not Framing.CHUNKED:
        return b""
    if not head.trailers:
        return b"\r\nTransfer-Encoding: chunked"
    return b"\r\nTransfer-Encoding: chunked\r\nTrailer: %b" % b", ".join(head.trailers)


def _takes_trailers(head: RequestHead) -> bool:
    return b"trailers" in [coding.strip() for value in values(head.fields, b"te") for coding in value.lower().split(b",")]


def _without_nominated(fields: bytes, options: frozenset[bytes]) -> bytes:
    """Headers that Connection names are for this hop alone (RFC 9110 7.6.1); Host is written by us, and nobody's to remove."""
    nominated = options - _FRAMES
    if not nominated:
        return fields
    lines = fields.split(b"\r\n")[1:]
    return b"".join([b"\r\n" + line for line in lines if line.partition(b":")[0].lower() not in nominated])
