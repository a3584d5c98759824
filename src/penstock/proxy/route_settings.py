"""The settings of one route, and what an upstream's URL may be."""

from __future__ import annotations

import re
from typing import Final

from pydantic import model_validator

from penstock.config.load import Section
from penstock.config.types import Duration, Networks  # noqa: TC001 - pydantic reads annotations at run time
from penstock.proxy.oauth_settings import OAuthConfig  # noqa: TC001 - as above

_HOST_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # underscores: Compose service names have them
_HOST: Final = re.compile(rf"(?:{_HOST_LABEL}\.)*{_HOST_LABEL}")
_HOST_HEADER: Final = re.compile(rf"{_HOST.pattern}(?::[0-9]{{1,5}})?")
_UPSTREAM: Final = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+):(?P<port>[0-9]{1,5})")
_IPV4: Final = re.compile(
    r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
)
# What inet_aton would still read as an address (2130706433, 0x7f.1, 0177.0.0.1): the last label is a number.
_ENDS_IN_A_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")
_INVALID_UPSTREAM: Final = "invalid upstream (must be scheme://host:port)"


class RouteConfig(Section):
    """One route: where its requests go, and how. A string is the short form of `url` alone."""

    url: str
    """The upstream, exactly `scheme://host:port`; scheme is `http` or `https`."""

    host_header: str = "preserve"
    """The Host sent upstream: `preserve` (what the caller asked for), `upstream` (the authority of `url`), or a name."""

    allowed_ips: Networks | None = None
    """CIDRs or single addresses that this route may dial, instead of what `upstream` says for all."""

    sse_keepalive: Duration = 0.0
    """After so long without a byte from the upstream, an event stream gets a comment, so that nobody between takes it for dead
    and a caller that is gone is noticed. 0, the default, passes a stream as it is."""

    require_oauth: OAuthConfig | None = None
    """Ask for bearer tokens in front of a server that has no authorization of its own. Not set, OAuth is between the caller and
    the server, and passes untouched."""

    @model_validator(mode="after")
    def _is_valid(self) -> RouteConfig:
        parse_upstream(self.url)
        if _HOST_HEADER.fullmatch(self.host_header.lower()) is None:
            msg = "host_header must be preserve, upstream or a host name"
            raise ValueError(msg)
        check_allowed_ips(self.allowed_ips)
        return self


def check_allowed_ips(networks: Networks | None) -> None:
    """ValueError for a list that allows nothing: an empty rule is an error, not a choice."""
    if networks == ():
        msg = "allowed_ips is empty: nothing could be dialled; leave it out for RFC 1918"
        raise ValueError(msg)


def parse_upstream(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of `scheme://host:port`, host in lower case and without brackets; ValueError otherwise."""
    match = _UPSTREAM.fullmatch(url)
    if match is None:
        raise ValueError(_INVALID_UPSTREAM)
    host = match["host"].lower()
    port = int(match["port"])
    is_address = host.startswith("[") or _IPV4.fullmatch(host)
    is_name = _HOST.fullmatch(host.removesuffix(".")) and not _ENDS_IN_A_NUMBER.fullmatch(host)
    if not (is_address or is_name) or not 0 < port < 65536:
        raise ValueError(_INVALID_UPSTREAM)
    return match["scheme"], host.strip("[]"), port
