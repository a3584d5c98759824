"""The settings of a proxy: the published ones under their published names, and ours.

The published failures come out word for word; people search for them.
"""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - pydantic reads annotations at run time
from typing import Annotated, Final, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from penstock.config import admin
from penstock.config.load import RoleConfig, Section
from penstock.config.types import Duration, HostPort, Networks  # noqa: TC001 - pydantic reads the annotations
from penstock.proxy.limits import ProxyLimits
from penstock.proxy.route_settings import RouteConfig, check_allowed_ips

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")


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
    """Pods take it from a Secret through their environment, and a Secret made from a file ends with a line's end."""
    return _route_name(value.strip()) if isinstance(value, str) and value else value


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
        check_allowed_ips(self.allowed_ips)
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


class ProxyConfig(RoleConfig):
    """A proxy."""

    listen_addr: HostPort
    """Where the agent reaches it; a plain-text WebSocket, TLS is inside."""

    log_level: Literal["debug", "info", "warn", "error"] = "info"
    """The least important level that is logged."""

    shutdown_timeout: Duration = 30.0
    """How long a stop may take. Calls in flight get a second less, so that the proxy is gone before Compose kills it; standing
    streams end at once."""

    tunnel_domain: Annotated[str, BeforeValidator(_domain)] = ""
    """The tunnel's domain; required when routes are bare subdomains."""

    tls: TlsConfig
    """Inner TLS."""

    routes: Annotated[dict[str, RouteConfig], BeforeValidator(_routes)]
    """Subdomain or full host name to upstream: its URL, or a mapping with `url` and the route's own settings."""

    upstream: UpstreamConfig = UpstreamConfig()
    """What may be dialled and trusted."""

    callers: CallersConfig = CallersConfig()
    """Who may call."""

    admin_addr: HostPort | None = admin.PROXY
    """Health and metrics; `null` turns them off."""

    reload_interval: Duration = Field(default=10.0, ge=0.01)
    """How often the certificate, its key and the settings files are looked at. A kubelet takes a minute to bring a Secret, so
    ten seconds more go unnoticed, and reading five small files costs nothing."""

    limits: ProxyLimits = ProxyLimits()
    """What the proxy takes on."""

    @model_validator(mode="before")
    @classmethod
    def _take_empty_for_default(cls, values: object) -> object:
        """`upstream:` with nothing behind it is the default, as the published proxy reads it; `admin_addr: null` is a value."""
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, object]", values)
        return {name: value for name, value in given.items() if value is not None or name == "admin_addr"}

    @model_validator(mode="after")
    def _has_domain(self) -> ProxyConfig:
        bare = [name for name in self.routes if "." not in name]
        if bare and not self.tunnel_domain:
            msg = (
                f"tunnel_domain is required: route {bare[0]} is a bare subdomain (set it in the file, give --tunnel-domain, "
                "or write the route's full host name; `penstock setup init` keeps it in tunnel-domain)"
            )
            raise ValueError(msg)
        return self
