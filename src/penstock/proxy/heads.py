"""Request and response heads: strict where a second parser might read something else. Pure.

The pipeline finds a head's end and counts its bytes; here its lines are counted, and the whole is held against one grammar,
which is that of RFC 9112 without its leniencies: no folded lines, no white space around a name, no control characters, lines
that end in CRLF and nothing else. What passes is the head's own lines less those for this hop (`headers`), so a header that
nobody here knows is never taken apart. Bodies are framed by `bodies`.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

from penstock.errors import TunnelError, TunnelErrorCode

Header = tuple[bytes, bytes]

# RFC 9112 5: each with the line end before it, so that the last one needs no care. Nothing in it can be matched in two ways,
# and the repetition of the whole is not possessive, as it could be: before 3.11.5 `re` gets those of groups wrong.
_FIELDS: Final = rb"((?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+)*)\r\n\r\n"
# RFC 9112 3: one space, no other white space. Origin-form and the asterisk of OPTIONS only: absolute-form would name a
# second host beside Host, authority-form belongs to CONNECT, and this is no forward proxy.
_LINE: Final = rb"([A-Z-]{1,32}) (/[!-~]*+|\*) HTTP/(1\.[01])"
_REQUEST_LINE: Final = re.compile(_LINE)
_REQUEST: Final = re.compile(_LINE + _FIELDS)
_RESPONSE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*+))?" + _FIELDS)
_BARE_LINE_FEED: Final = re.compile(rb"(?<!\r)\n")
# RFC 9110 9 and PATCH, and WebDAV's reading ones are not needed by any MCP server. CONNECT and TRACE are refused on
# purpose: one makes a tunnel of the connection, the other echoes credentials.
METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")  # 18 digits: below 2^63, so nobody's integer overflows
_HOST: Final = re.compile(rb"[!#$%&'()*+,\-.0-9:;=A-Z\[\]_a-z~]{1,255}")  # RFC 9110 7.2: uri-host [":" port]
_OWN: Final = re.compile(rb"\r\n(host|connection|content-length|transfer-encoding):([^\r]*)", re.IGNORECASE)
_PAIR: Final = re.compile(rb"\r\n([^:]*):([^\r]*)")
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


# Looked up several times a request: a global is found faster than a member of an Enum.
_NONE: Final = Framing.NONE
_CHUNKED: Final = Framing.CHUNKED


class RequestHead(NamedTuple):
    """One request's head, as strict as `parse_request` is.

    fields are its header lines as they came, each with the line end before it; options those of Connection, in lower case
    and without keep-alive, which says nothing; is_upgrade: it asks for a WebSocket; trailers: the ones it announces that may
    pass.
    """

    method: bytes
    target: bytes
    is_http_1_0: bool
    fields: bytes
    host: bytes
    framing: Framing
    length: int
    keeps_alive: bool
    options: frozenset[bytes]
    is_upgrade: bool
    trailers: tuple[bytes, ...]

    @property
    def headers(self) -> list[Header]:
        """Names as spelled, and values; taken apart anew each time."""
        return pairs(self.fields)


class ResponseHead(NamedTuple):
    """One response's head; `length` counts where framing is LENGTH, the rest is as in `RequestHead`."""

    status: int
    reason: bytes
    fields: bytes
    framing: Framing
    length: int
    keeps_alive: bool
    options: frozenset[bytes]
    trailers: tuple[bytes, ...]

    @property
    def headers(self) -> list[Header]:
        """As `RequestHead.headers`."""
        return pairs(self.fields)


class HeadError(Exception):
    """A head that is not taken; the text may be shown to its sender."""


def parse_request(head: bytes, *, headers_most: int) -> RequestHead:
    """A whole head, its empty line included; TunnelError with 400 or 431 when it is not taken."""
    if head.count(b"\n") - 2 > headers_most:
        _check_line(head)
        raise TunnelError(TunnelErrorCode.HEAD_TOO_LARGE, f"the request has more than {headers_most} headers")
    match = _REQUEST.fullmatch(head)
    if match is None:
        _check_line(head)
        raise _bad("the request's head is malformed")
    method, target, version, fields = match.groups()
    if method not in METHODS or (target == b"*" and method != b"OPTIONS"):
        raise _bad(_NO_LINE)
    try:
        return _request(method, target, version == b"1.0", fields)
    except HeadError as exc:
        raise _bad(str(exc)) from exc


def parse_response(head: bytes, *, headers_most: int, is_head_request: bool) -> ResponseHead:
    """A whole head, its empty line included; HeadError when it is not taken."""
    if head.count(b"\n") - 2 > headers_most:
        raise HeadError(f"more than {headers_most} headers")
    match = _RESPONSE.fullmatch(head)
    if match is None:
        raise HeadError("malformed head")
    minor, digits, reason, fields = match.groups(b"")
    status = int(digits)
    framing, length, options, _ = _own(fields)
    if framing is _CHUNKED and minor == b"0":
        raise HeadError("HTTP/1.0 with Transfer-Encoding")
    if is_head_request or status < 200 or status in {204, 304}:  # RFC 9112 6.3: whatever the headers say
        framing = _NONE
    elif framing is _NONE:
        framing = Framing.CLOSE
    keeps = framing is not Framing.CLOSE and minor == b"1" and b"close" not in options
    trailers = _trailers(fields) if framing is _CHUNKED else ()
    return ResponseHead(status, reason, fields, framing, length, keeps, options, trailers)


def check_beginning(data: bytes, seen: int = 0) -> None:
    """The beginning of a request's head whose end has not come: TunnelError at once for what cannot become one.

    Without this HTTP/0.9, bare line feeds and other protocols would sit out the whole head timeout. Of `data` the first
    `seen` bytes have been checked: a head that comes byte by byte costs no more than one that comes at once.
    """
    if _BARE_LINE_FEED.search(data, seen):
        raise _bad("the request's head is malformed")
    if data.find(b"\r\n") >= max(seen - 1, 0):
        _check_line(data)


def pairs(fields: bytes) -> list[Header]:
    """Names as spelled, and values without the white space around them."""
    return [(name, value.strip(b" \t")) for name, value in _PAIR.findall(fields)]


def values(fields: bytes, name: bytes) -> list[bytes]:
    """The values of one header, by its name in lower case."""
    return [value.strip(b" \t") for value in _line(name).findall(fields)]


@cache
def _line(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"\r\n" + name + rb":([^\r]*)", re.IGNORECASE)


def names_websocket(fields: bytes) -> bool:
    """Whether Upgrade names WebSocket and nothing else."""
    return [value.lower() for value in values(fields, b"upgrade")] == [b"websocket"]


def _check_line(head: bytes) -> None:
    if _REQUEST_LINE.fullmatch(head, 0, head.index(b"\r\n")) is None:
        raise _bad(_NO_LINE)


def _request(method: bytes, target: bytes, is_http_1_0: bool, fields: bytes) -> RequestHead:  # noqa: FBT001 - as in the tuple
    framing, length, options, hosts = _own(fields)
    if len(hosts) != 1:
        raise HeadError("the request has no Host" if not hosts else "the request has more than one Host")
    host = hosts[0]
    if _HOST.fullmatch(host) is None:
        raise HeadError("the request's Host is not a host name")
    if framing is _CHUNKED and is_http_1_0:
        raise HeadError("HTTP/1.0 has no Transfer-Encoding")
    keeps = not is_http_1_0 and b"close" not in options  # HTTP/1.0's keep-alive was never standardised
    # An Upgrade is an offer that may be ignored (RFC 9110 7.8): any but WebSocket's is, and with a body that one too.
    is_plain = method == b"GET" and not is_http_1_0 and framing is _NONE
    is_upgrade = is_plain and b"upgrade" in options and names_websocket(fields)
    trailers = _trailers(fields) if framing is _CHUNKED else ()
    return RequestHead(method, target, is_http_1_0, fields, host, framing, length, keeps, options, is_upgrade, trailers)


def _trailers(fields: bytes) -> tuple[bytes, ...]:
    """The names that Trailer announces and that may be one: nothing that anybody reads to frame, route, allow or match."""
    names = [name.strip() for value in values(fields, b"trailer") for name in value.lower().split(b",")]
    return tuple(name for name in names if _NAME.fullmatch(name) and name not in _NEVER and not name.startswith(_NEVER_FROM))


def _own(fields: bytes) -> tuple[Framing, int, frozenset[bytes], list[bytes]]:
    """What this hop reads itself: framing and length, Connection's options, the values of Host.

    The framing is RFC 9112 6.3 without its leniencies: the only transfer coding is `chunked`, once, never beside a length.
    """
    framing, length, options = _NONE, 0, _NO_OPTIONS
    hosts: list[bytes] = []
    for name, raw in _OWN.findall(fields):
        value = raw.strip(b" \t")
        size = len(name)  # tells the four of them apart
        if size == 4:
            hosts.append(value)
        elif size == 10:
            if value != b"keep-alive":
                options |= {token.strip() for token in value.lower().split(b",")}
        elif framing is not _NONE:
            raise HeadError("the body's length is given twice")
        elif size == 14:
            if _LENGTH.fullmatch(value) is None:
                raise HeadError("Content-Length is not a number")
            framing, length = Framing.LENGTH, int(value)
        elif value.lower() != b"chunked":
            raise HeadError("the only Transfer-Encoding is chunked")
        else:
            framing = _CHUNKED
    return framing, length, options, hosts


_NO_LINE: Final = "the request line is not METHOD /path HTTP/1.1 with a known method"


def _bad(public: str) -> TunnelError:
    return TunnelError(TunnelErrorCode.BAD_REQUEST, public)
