"""Request and response heads: strict where a second parser might read something else. Pure.

The pipeline finds a head's end and counts its bytes; here its lines are counted, and only then is it parsed. Bodies never
reach the parser: `bodies` frames them, so no input can make it run on into a second message.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

import httptools

from penstock.errors import TunnelError, TunnelErrorCode

if TYPE_CHECKING:
    from collections.abc import Sequence

Header = tuple[bytes, bytes]

# RFC 9112 3: one space, no other white space. Origin-form and the asterisk of OPTIONS only: absolute-form would name a
# second host beside Host, authority-form belongs to CONNECT, and this is no forward proxy.
_REQUEST_LINE: Final = re.compile(rb"([A-Z-]{1,32}) (/[!-~]*+|\*) HTTP/(1\.[01])")
_BARE_LINE_FEED: Final = re.compile(rb"(?<!\r)\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*+)?")
# RFC 9110 9 and PATCH, and WebDAV's reading ones are not needed by any MCP server. CONNECT and TRACE are refused on
# purpose: one makes a tunnel of the connection, the other echoes credentials.
METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")  # 18 digits: below 2^63, so nobody's integer overflows
_HOST: Final = re.compile(rb"[!#$%&'()*+,\-.0-9:;=A-Z\[\]_a-z~]{1,255}")  # RFC 9110 7.2: uri-host [":" port]
_SPECIAL: Final = frozenset({len("host"), len("connection"), len("content-length"), len("transfer-encoding")})
_FRAMES: Final = frozenset({b"content-length", b"transfer-encoding"})
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9110 6.5.1, and the claims of headers.py: who merges trailers into headers must not find one of these.
_NEVER: Final = frozenset(
    b"age authorization cache-control connection cookie date expect expires forwarded host keep-alive last-event-id location"
    b" max-forwards origin pragma range retry-after set-cookie te trailer transfer-encoding upgrade vary via warning"
    b" www-authenticate x-real-ip".split()
)
_NEVER_FROM: Final = (
    b"accept",
    b"access-control-",
    b"content-",
    b"if-",
    b"mcp-",
    b"penstock-",
    b"proxy-",
    b"x-forwarded-",
)
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


class Framing(Enum):
    """How a body's end is known."""

    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    CLOSE = 3  # responses only


class RequestHead(NamedTuple):
    """One request's head, as strict as `parse_request` is.

    options are those of Connection, in lower case; is_upgrade: it asks for a WebSocket; trailers: the ones it announces that
    may pass.
    """

    method: bytes
    target: bytes
    is_http_1_0: bool
    headers: list[Header]
    host: bytes
    framing: Framing
    length: int
    keeps_alive: bool
    options: frozenset[bytes]
    is_upgrade: bool
    trailers: tuple[bytes, ...]


class ResponseHead(NamedTuple):
    """One response's head; `length` counts where framing is LENGTH, options and trailers are as in `RequestHead`."""

    status: int
    reason: bytes
    headers: list[Header]
    framing: Framing
    length: int
    keeps_alive: bool
    options: frozenset[bytes]
    trailers: tuple[bytes, ...]


class HeadError(Exception):
    """A head that is not taken; the text may be shown to its sender."""


def parse_request(head: bytes, *, headers_most: int) -> RequestHead:
    """A whole head, its empty line included; TunnelError with 400 or 431 when it is not taken."""
    line = _REQUEST_LINE.fullmatch(head, 0, head.index(b"\r\n"))
    if line is None or line[1] not in METHODS or (line[2] == b"*" and line[1] != b"OPTIONS"):
        raise _bad("the request line is not METHOD /path HTTP/1.1 with a known method")
    if head.count(b"\n") - 2 > headers_most:
        raise TunnelError(TunnelErrorCode.HEAD_TOO_LARGE, f"the request has more than {headers_most} headers")
    fields = _Fields()
    try:
        httptools.HttpRequestParser(fields).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # no matter to this parser: it is fed nothing behind the head
    except httptools.HttpParserError as exc:
        raise _bad("the request's head is malformed", detail=str(exc)) from exc
    if not fields.is_complete:
        raise _bad("the request's head is malformed")
    try:
        return _request(line, fields.headers)
    except HeadError as exc:
        raise _bad(str(exc)) from exc


def parse_response(head: bytes, *, headers_most: int, is_head_request: bool) -> ResponseHead:
    """A whole head, its empty line included; HeadError when it is not taken."""
    end = head.index(b"\r\n")
    if _STATUS_LINE.fullmatch(head, 0, end) is None:
        raise HeadError("no HTTP/1.x status line")
    if head.count(b"\n") - 2 > headers_most:
        raise HeadError(f"more than {headers_most} headers")
    fields = _Fields()
    try:
        httptools.HttpResponseParser(fields).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as exc:
        raise HeadError(str(exc)) from exc
    if not fields.is_complete:
        raise HeadError("malformed head")
    status = int(head[9:12])
    is_http_1_0 = head[7:8] == b"0"
    framing, length, options, _ = _special(fields.headers)
    if framing is Framing.CHUNKED and is_http_1_0:
        raise HeadError("HTTP/1.0 with Transfer-Encoding")
    if is_head_request or status < 200 or status in {204, 304}:  # RFC 9112 6.3: whatever the headers say
        framing = Framing.NONE
    elif framing is Framing.NONE:
        framing = Framing.CLOSE
    keeps = framing is not Framing.CLOSE and not is_http_1_0 and b"close" not in options
    trailers = _trailers(fields.headers) if framing is Framing.CHUNKED else ()
    return ResponseHead(status, head[13:end], fields.headers, framing, length, keeps, options, trailers)


def check_beginning(data: bytes) -> None:
    """The beginning of a request's head whose end has not come: TunnelError at once for what cannot become one.

    Without this HTTP/0.9, bare line feeds and other protocols would sit out the whole head timeout.
    """
    end = data.find(b"\r\n")
    if _BARE_LINE_FEED.search(data) or (end >= 0 and _REQUEST_LINE.fullmatch(data, 0, end) is None):
        raise _bad("the request's head is malformed")


def _request(line: re.Match[bytes], headers: list[Header]) -> RequestHead:
    framing, length, options, hosts = _special(headers)
    if len(hosts) != 1:
        raise HeadError("the request has no Host" if not hosts else "the request has more than one Host")
    if _HOST.fullmatch(hosts[0]) is None:
        raise HeadError("the request's Host is not a host name")
    is_http_1_0 = line[3] == b"1.0"
    if framing is Framing.CHUNKED and is_http_1_0:
        raise HeadError("HTTP/1.0 has no Transfer-Encoding")
    keeps = not is_http_1_0 and b"close" not in options  # HTTP/1.0's keep-alive was never standardised
    # An Upgrade is an offer that may be ignored (RFC 9110 7.8): any but WebSocket's is, and with a body that one too.
    is_plain = line[1] == b"GET" and not is_http_1_0 and framing is Framing.NONE
    is_upgrade = b"upgrade" in options and is_plain and names_websocket(headers)
    trailers = _trailers(headers) if framing is Framing.CHUNKED else ()
    return RequestHead(line[1], line[2], is_http_1_0, headers, hosts[0], framing, length, keeps, options, is_upgrade, trailers)


def names_websocket(headers: Sequence[Header]) -> bool:
    """Whether Upgrade names WebSocket and nothing else."""
    return [value.lower() for name, value in headers if name.lower() == b"upgrade"] == [b"websocket"]


def _trailers(headers: Sequence[Header]) -> tuple[bytes, ...]:
    """The names that Trailer announces and that may be one: nothing that anybody reads to frame, route, allow or match."""
    values = [value for name, value in headers if len(name) == 7 and name.lower() == b"trailer"]
    names = [name.strip() for value in values for name in value.lower().split(b",")]
    return tuple(name for name in names if _NAME.fullmatch(name) and name not in _NEVER and not name.startswith(_NEVER_FROM))


class _Special(NamedTuple):
    """What this hop reads itself."""

    framing: Framing
    length: int
    options: frozenset[bytes]
    hosts: list[bytes]


def _special(headers: Sequence[Header]) -> _Special:
    """One look at the headers, by the length of their names first, for most are somebody else's.

    The framing is RFC 9112 6.3 without its leniencies: the only transfer coding is `chunked`, once, never beside a length.
    """
    framing, length, options = Framing.NONE, 0, _NO_OPTIONS
    hosts: list[bytes] = []
    for name, value in headers:
        if len(name) not in _SPECIAL:
            continue
        lower = name.lower()
        if lower == b"host":
            hosts.append(value)
        elif lower == b"connection":
            options |= {token.strip() for token in value.lower().split(b",")}
        elif lower in _FRAMES:
            if framing is not Framing.NONE:
                raise HeadError("the body's length is given twice")
            framing, length = _frame(lower, value)
    return _Special(framing, length, options, hosts)


def _frame(name: bytes, value: bytes) -> tuple[Framing, int]:
    if name == b"transfer-encoding":
        if value.lower() != b"chunked":
            raise HeadError("the only Transfer-Encoding is chunked")
        return Framing.CHUNKED, 0
    if _LENGTH.fullmatch(value) is None:
        raise HeadError("Content-Length is not a number")
    return Framing.LENGTH, int(value)


def _bad(public: str, *, detail: str | None = None) -> TunnelError:
    return TunnelError(TunnelErrorCode.BAD_REQUEST, public, detail=detail)


class _Fields:
    """What httptools calls back."""

    __slots__ = ("headers", "is_complete")

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_complete = True
