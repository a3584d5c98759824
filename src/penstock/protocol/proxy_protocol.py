"""The PROXY protocol, version 2: what a load balancer says in front of a connection about who dialled it. Pure.

haproxy's `proxy-protocol.txt`, 2.2. Only the binary form: version 1 is text, which a client could write as well as a balancer.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple

from penstock.protocol.errors import RemoteProtocolError

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""Chosen by its authors so that servers of other protocols fail on it at once."""
MOST: Final = 2048
"""Bytes behind the fixed part. Addresses take 36; the rest are extensions, of which those about TLS and a cloud's endpoints are
the largest, at some hundred bytes. The length field would allow 65,535."""

_FIXED: Final = struct.Struct("!12sBBH")
_LOCAL: Final = 0x20  # version 2, and the balancer speaks for itself: a health check
_PROXIED: Final = 0x21  # version 2, on behalf of somebody
_UNSPECIFIED: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_PORT: Final = struct.Struct("!H")


class Announced(NamedTuple):
    """Who dialled the balancer (None: it does not say, or speaks for itself), and where the connection's own bytes begin."""

    source: tuple[str, int] | None
    end: int


def parse(data: bytes) -> Announced | None:
    """What the header at the start of `data` says; None while it is incomplete. RemoteProtocolError as soon as it is none."""
    if data[:12] != SIGNATURE[: len(data)]:
        raise RemoteProtocolError("the connection does not begin with a PROXY protocol header")
    if len(data) < _FIXED.size:
        return None
    _, command, family, length = _FIXED.unpack_from(data)
    if command not in {_LOCAL, _PROXIED}:
        raise RemoteProtocolError("the PROXY protocol header is not of version 2, or has an unknown command")
    if length > MOST:
        raise RemoteProtocolError("the PROXY protocol header is too large")
    end = _FIXED.size + length
    if len(data) < end:
        return None
    if command == _LOCAL or family == _UNSPECIFIED:
        return Announced(None, end)
    return Announced(_source(family, data[_FIXED.size : end]), end)


def _source(family: int, addresses: bytes) -> tuple[str, int]:
    if family == _TCP4 and len(addresses) >= 12:
        return str(ipaddress.IPv4Address(addresses[:4])), _port(addresses, 8)
    if family == _TCP6 and len(addresses) >= 36:
        return str(ipaddress.IPv6Address(addresses[:16])), _port(addresses, 32)
    raise RemoteProtocolError("the PROXY protocol header is not about a TCP connection")


def _port(addresses: bytes, at: int) -> int:
    return int(_PORT.unpack_from(addresses, at)[0])
