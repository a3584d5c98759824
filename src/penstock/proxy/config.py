"""The settings of a proxy: the published ones under their published names, and ours.

The published failures come out word for word; people search for them.
"""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - pydantic reads annotations at run time
from typing import Annotated, Final, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from penstock.config.load import RoleConfig, Section
from penstock.config.types import ByteSize, Duration, HostPort, Networks

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_HOST_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # underscores: Compose service names have them
_HOST: Final = re.compile(rf"(?:{_HOST_LABEL}\.)*{_HOST_LABEL}")
_UPSTREAM: Final = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+):(?P<port>[0-9]{1,5})")
_IPV4: Final = re.compile(
    r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
)
# What inet_aton would still read as an address (2130706433, 0x7f.1, 0177.0.0.1): the last label is a number.
_ENDS_IN_A_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")
_INVALID_UPSTREAM: Final = "invalid upstream (must be scheme://host:port)"


class RouteConfig(Section):
    """One route: where its requests go. A string is the short form of `url` alone."""

    url: str
    """The upstream, exactly `scheme://host:port`; scheme is `http` or `https`."""

    host_header: str = "preserve"
    """The Host sent upstream: `preserve` (what the caller asked for), `upstream` (the authority of `url`), or a name."""

    @model_validator(mode="after")
    def _is_valid(self) -> RouteConfig:
        parse_upstream(self.url)
        name, _, port = self.host_header.partition(":")
        if _HOST.fullmatch(name.lower()) is None or (port and not port.isdigit()):
            msg = "host_header must be preserve, upstream or a host name"
            raise ValueError(msg)
        return self


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


def _routes(value: object) -> object:
    if isinstance(value, list):
        msg = "cannot unmarshal !!seq into map[string]string"
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns ValueError into a message with the field's path
    if not isinstance(value, dict) or not value:
        msg = "must map at least one subdomain or host name to an upstream"
        raise ValueError(msg)
    routes = cast("dict[object, object]", value)
    return {_route_name(name): {"url": to} if isinstance(to, str) else to for name, to in routes.items()}


def _route_name(name: object) -> str:
    text = str(name).lower().removesuffix(".")
    if len(text) > 253 or _NAME.fullmatch(text) is None:
        msg = f"{name!r} is not a subdomain or host name"
        raise ValueError(msg)
    return text


def _domain(value: object) -> object:
    return _route_name(value) if isinstance(value, str) and value else value


class TlsConfig(Section):
    """The certificate of inner TLS."""

    cert_file: Path
    """PEM server certificate, signed directly by a CA that is registered on the tunnel."""

    key_file: Path
    """PEM private key of `cert_file`."""


class UpstreamTlsConfig(Section):
    """Whom `https` upstreams are trusted by. With neither, none is: there is no trust anchor."""

    ca_file: Path | None = None
    """PEM bundle of CAs for `https` upstreams."""

    include_system_cas: bool = False
    """Trust the system's CAs too."""


class UpstreamConfig(Section):
    """What the proxy may dial."""

    allowed_ips: Networks | None = None
    """CIDRs or single addresses that may be dialled; replaces the default, RFC 1918."""

    disable_ip_validation: bool = False
    """Dial any IPv4 address, except metadata and link-local ones."""

    tls: UpstreamTlsConfig = UpstreamTlsConfig()
    """TLS towards `https` upstreams."""

    @model_validator(mode="after")
    def _is_one_of(self) -> UpstreamConfig:
        if self.allowed_ips is not None and self.disable_ip_validation:
            msg = "allowed_ips and disable_ip_validation are mutually exclusive"
            raise ValueError(msg)
        if self.allowed_ips == ():
            msg = "allowed_ips is empty: nothing could be dialled; leave it out for RFC 1918"
            raise ValueError(msg)
        return self


class CallersConfig(Section):
    """Who may call, proven by a client certificate inside inner TLS, where the relay cannot stand in."""

    mode: Literal["off", "request", "require"] = "off"
    """`off` accepts whoever reaches the listener, as the published proxy does; `request` checks a certificate that is
    presented; `require` refuses who presents none."""

    ca_file: Path | None = None
    """PEM CA that callers' certificates are checked against."""

    allow: tuple[str, ...] | None = None
    """Workspace or caller ids; anybody the CA vouches for when not set."""

    @model_validator(mode="after")
    def _is_complete(self) -> CallersConfig:
        if self.mode != "off" and self.ca_file is None:
            msg = f"ca_file is required with mode {self.mode}"
            raise ValueError(msg)
        if self.mode == "off" and (self.ca_file is not None or self.allow is not None):
            msg = "ca_file and allow have no effect with mode off: set mode to require"
            raise ValueError(msg)
        if self.allow == ():
            msg = "allow is empty: nobody could call; leave it out for every caller of the CA"
            raise ValueError(msg)
        return self


class ProxyLimits(Section):
    """What a proxy takes on, and how long it waits. 0 turns a time off where that is said."""

    streams: int = Field(default=10_000, ge=1)
    """Callers' streams at once; an idle one costs about 56 KiB."""

    head_bytes: ByteSize = Field(default=32 * 1024, ge=1024, le=1 << 20)
    """A request's or response's head. Bearer tokens and `Mcp-Param-*` reach some KiB; nginx takes 32 KiB in all."""

    headers: int = Field(default=100, ge=1, le=10_000)
    """Header lines a head; browsers send 20, Apache takes 100."""

    body_bytes: ByteSize = 0
    """A request's body; 0 is any size: bodies stream, they are never held."""

    handshake_timeout: Duration = Field(default=10.0, gt=0)
    """The upgrade's head, and then inner TLS: three round trips each at most, even through a satellite."""

    head_timeout: Duration = Field(default=10.0, gt=0)
    """From a head's first byte to its last; it fits one packet, longer is a slow-loris."""

    body_timeout: Duration = Field(default=60.0, gt=0)
    """Between two pieces of a request's body that the upstream is waiting for."""

    idle_timeout: Duration = Field(default=300.0, gt=0)
    """A stream without a request: as long as callers' pools usefully keep one; a new one costs them six round trips."""

    connect_timeout: Duration = Field(default=10.0, gt=0)
    """Name look-up, TCP and TLS to an upstream: a private network answers in milliseconds or not at all."""

    first_byte_timeout: Duration = 0.0
    """From a request's end to the response's head; 0 is for ever. Off because a tool may think for minutes before it
    answers, the caller knows how long it wants to wait, and its going away ends the request."""

    upstream_idle: Duration = Field(default=4.0, ge=0)
    """How long a kept connection is reused. Shorter than the 5 s after which uvicorn and Node close theirs: a POST sent into
    a closing connection fails, and may not be repeated."""

    upstream_idle_connections: int = Field(default=64, ge=0)
    """Kept connections a route: enough for a burst, few enough for a small server."""

    lookups: int = Field(default=16, ge=1)
    """Name look-ups at once; the rest wait within `connect_timeout`."""


class ProxyConfig(RoleConfig):
    """A proxy."""

    listen_addr: HostPort
    """Where the agent reaches it; a plain-text WebSocket, TLS is inside."""

    log_level: Literal["debug", "info", "warn", "error"] = "info"
    """The least important level that is logged."""

    shutdown_timeout: Duration = 30.0
    """How long calls in flight may go on when the proxy stops."""

    tunnel_domain: Annotated[str, BeforeValidator(_domain)] = ""
    """The tunnel's domain; required when routes are bare subdomains."""

    tls: TlsConfig
    """Inner TLS."""

    routes: Annotated[dict[str, RouteConfig], BeforeValidator(_routes)]
    """Subdomain or full host name to upstream."""

    upstream: UpstreamConfig = UpstreamConfig()
    """What may be dialled and trusted."""

    callers: CallersConfig = CallersConfig()
    """Who may call."""

    admin_addr: HostPort | None = HostPort("127.0.0.1", 8081)
    """Health and metrics; `null` turns them off."""

    limits: ProxyLimits = ProxyLimits()
    """What the proxy takes on."""

    @model_validator(mode="after")
    def _has_domain(self) -> ProxyConfig:
        bare = [name for name in self.routes if "." not in name]
        if bare and not self.tunnel_domain:
            msg = f"tunnel_domain is required: route {bare[0]} is a bare subdomain"
            raise ValueError(msg)
        return self
