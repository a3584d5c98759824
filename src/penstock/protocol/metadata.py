"""The marks on a link's requests and responses, in the published names (cloudflared's HTTP/2 transport)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from penstock.protocol.errors import RemoteProtocolError

EDGE_SERVER_NAME: Final = "h2.cftunnel.com"
"""The name an agent asks for and verifies on 7844; no ALPN."""
PROBE_SERVER_NAME: Final = "probe.cftunnel.com"
"""The same, of a stock agent's start-up checks."""
MANAGEMENT_HOSTS: Final = frozenset({"management.argotunnel.com", "management.fed.argotunnel.com"})
"""Served by stock agents before any rule of the user's, with a token they do not verify: an edge refuses these hosts."""

UPGRADE: Final = b"cf-cloudflared-proxy-connection-upgrade"
"""What a request is: one of the values below."""
WEBSOCKET: Final = b"websocket"
CONTROL_STREAM: Final = b"control-stream"
UPDATE_CONFIGURATION: Final = b"update-configuration"
NOTICE: Final = b"penstock-notice"
"""Ours, to agents that ask for it: news from the edge, in the header `NOTICE_BODY`."""
NOTICE_BODY: Final = b"penstock-notice"
TCP_SOURCE: Final = b"cf-cloudflared-proxy-src"
"""With any value: raw TCP to `:authority`. Penstock never sends it."""

RESPONSE_HEADERS: Final = b"cf-cloudflared-response-headers"
"""The origin's headers, serialised: the only place where they are."""
RESPONSE_META: Final = b"cf-cloudflared-response-meta"
"""Who answered; the next two are its values (a stock agent may add members)."""
META_ORIGIN: Final = b'{"src":"origin"}'
META_AGENT: Final = b'{"src":"cloudflared"}'

REPLICA: Final = b"penstock-replica"
"""Ours: which agent served, and, on a request, which one is asked for."""
ERROR: Final = b"penstock-error"
"""Ours: the `TunnelErrorCode` of a refusal."""

HOP: Final = b"penstock-hop"
"""Ours, between edges: a stream that was passed on already, and by whom; the next two are its values."""
HOP_EDGE: Final = b"edge"
HOP_WORKER: Final = b"worker"
HOP_REPLICA: Final = b"penstock-hop-replica"
"""Ours, beside it: with any value, no other replica will do than the one asked for; who passed it on has others itself."""
CALLER: Final = b"penstock-caller"
"""Ours, beside it: the caller's certificate, DER in base64."""
EDGE: Final = b"penstock-edge"
"""Ours, on an upgrade's response: the edge that holds the tunnel, for a caller to dial next time."""
EVENT: Final = b"penstock-event"
"""Ours, between workers: an event for callers that listen at another worker than the one that holds their stream."""
LINK: Final = b"penstock-link"
"""Ours, on an upgrade's response: the link that carries the stream, as the edge's events and access records name it."""

MAX_SERIALISED: Final = 512 * 1024
"""Bytes of serialised headers accepted: a head of 60 KB of cookies is seen in practice, a third is base64's."""
MAX_HEADERS: Final = 1024

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN: Final = re.compile(rb"[\x00\r\n]")
_CONTROL_PREFIX: Final = b"cf-"


def is_control_header(name: bytes) -> bool:
    """Whether an edge drops this header from callers' requests (`name` in any case).

    All of `cf-*`: a caller's `cf-cloudflared-*` reconfigures a stock agent or makes it dial where the caller says, `cf-proxy-*`
    and `cf-int-*` are reserved in the same way, and the next one must not need a release of ours.
    """
    return name[:3].lower() == _CONTROL_PREFIX


def serialize_headers(headers: list[tuple[bytes, bytes]]) -> bytes:
    """`;`-joined `base64(name):base64(value)` without padding; repeats and case are kept."""
    return b";".join(_encode(name) + b":" + _encode(value) for name, value in headers)


def parse_headers(data: bytes, *, max_bytes: int = MAX_SERIALISED, max_headers: int = MAX_HEADERS) -> list[tuple[bytes, bytes]]:
    """The reverse. Strict: these headers are written into HTTP/1.1 heads, so names are tokens and values hold no line end."""
    if not data:
        return []
    if len(data) > max_bytes:
        raise RemoteProtocolError("serialised headers are too long")
    if data.count(b";") >= max_headers:
        raise RemoteProtocolError("serialised headers are too many")
    headers: list[tuple[bytes, bytes]] = []
    for item in data.split(b";"):
        name, colon, value = item.partition(b":")
        if not colon:
            raise RemoteProtocolError("a serialised header has no value")
        header = _decode(name), _decode(value)
        if _NAME.fullmatch(header[0]) is None or _FORBIDDEN.search(header[1]):
            raise RemoteProtocolError("a serialised header has forbidden characters")
        headers.append(header)
    return headers


def is_from_agent(meta: bytes) -> bool:
    """Whether the agent answered itself, its origin having failed, by the value of the response's meta header."""
    return b'"src":"cloudflared"' in meta.replace(b" ", b"")


def _encode(text: bytes) -> bytes:
    return base64.b64encode(text).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    if b"=" in text:
        raise RemoteProtocolError("serialised headers have padding")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise RemoteProtocolError("serialised headers are not base64") from None
