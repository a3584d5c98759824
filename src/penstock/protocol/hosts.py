"""One normalization of host names, for Host, SNI and routes alike: two spellings of a name must never decide differently."""

from __future__ import annotations

import re
from typing import Final

from penstock.protocol.errors import RemoteProtocolError

MAX_HOST: Final = 253  # RFC 1035 2.3.4, without the root's dot

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PORT: Final = re.compile(r":[0-9]{1,5}")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class InvalidHostError(RemoteProtocolError, ValueError):
    """Not a host name a tunnel could have."""


def normalize_host(text: str) -> str:
    """Lower case, without port and trailing dot; letters, digits and hyphens only (IDNs as A-labels).

    Address literals are refused, in every spelling `inet_aton` knows: a name whose last label is a number is an address to
    some resolver.
    """
    name, colon, port = text.partition(":")
    if colon and _PORT.fullmatch(colon + port) is None:  # IPv6 literals end here too
        raise InvalidHostError("the host name is malformed")
    name = name.removesuffix(".")
    if not name or len(name) > MAX_HOST or not name.isascii():
        raise InvalidHostError("the host name is malformed")
    name = name.lower()
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidHostError("the host name is malformed")
    if _NUMBER.fullmatch(labels[-1]):
        raise InvalidHostError("the host is an address, not a name")
    return name


def split_route(host: str, domain: str) -> str | None:
    """The one label before a tunnel's domain, both normalized; None for the bare domain, deeper names and foreign ones."""
    route, _, rest = host.partition(".")
    return route if rest == domain and route else None
