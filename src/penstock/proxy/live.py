"""What the settings and the files they name amount to: made whole or not at all, so that a reload is one assignment.

Everything here blocks: it reads files, and runs in a thread of its own once the proxy serves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from penstock.config.files import named_by
from penstock.config.pem import presenting, read_pair
from penstock.errors import ConfigError, IdentityError
from penstock.proxy.callers import Callers
from penstock.proxy.guard import Guard, Resolver
from penstock.proxy.routes import RouteTable
from penstock.tls import certs, contexts
from penstock.tls.names import dns_names
from penstock.tls.rules import covers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from penstock.proxy.config import ProxyConfig, UpstreamTlsConfig
    from penstock.proxy.guard import LookUp
    from penstock.proxy.oauth_settings import OAuthConfig
    from penstock.tls.certs import KeyPair
    from penstock.tls.contexts import TLSContext

# They name sockets that callers and probes have; everything else can change under them.
_NEEDS_RESTART: Final = ("listen_addr", "admin_addr")


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificate of inner TLS and whose callers it is shown to: what a new handshake needs."""

    pair: KeyPair
    callers_ca: str | None
    context: TLSContext
    expires_at: datetime

    @classmethod
    def load(cls, config: ProxyConfig) -> Identity:
        """From the files; ConfigError in the published words."""
        return cls.of(read_pair(config.tls.cert_file, config.tls.key_file), config)

    @classmethod
    def of(cls, pair: KeyPair, config: ProxyConfig) -> Identity:
        """With a pair that was read already."""
        ca_file = config.callers.ca_file
        callers_ca = _read_callers_ca(ca_file) if ca_file is not None else None
        with presenting(config.tls.cert_file, config.tls.key_file):
            context = contexts.proxy_inner(pair, [] if callers_ca is None else [callers_ca], config.callers.mode)
        return cls(pair, callers_ca, context, certs.load_certificate(pair.certificate_pem).not_valid_after_utc)


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the `https` of upstreams, or of an issuer, is trusted by."""

    ca: str | None
    include_system_cas: bool
    context: TLSContext

    @classmethod
    def load(cls, settings: UpstreamTlsConfig | OAuthConfig, path: str) -> Trust:
        """From the file; ConfigError when it cannot be used. path: of the settings."""
        with named_by(f"{path}.ca_file"):
            ca = contexts.read_pem(settings.ca_file) if settings.ca_file is not None else None
            context = contexts.upstream(settings.ca_file, include_system_cas=settings.include_system_cas)
        return cls(ca, settings.include_system_cas, context)

    def is_same(self, other: Trust) -> bool:
        """Whether it trusts the same."""
        return (self.ca, self.include_system_cas) == (other.ca, other.include_system_cas)


@dataclass(frozen=True, slots=True)
class Live:
    """What holds now. Parts that a reload did not change are the same objects as before."""

    config: ProxyConfig
    identity: Identity
    callers: Callers
    routes: RouteTable
    resolver: Resolver
    trust: Trust
    issuers: Mapping[OAuthConfig, Trust]

    @classmethod
    def load(cls, config: ProxyConfig, lookup: LookUp) -> Live:
        """For a start; ConfigError for what the settings or their files got wrong."""
        identity = Identity.load(config)
        return cls(
            config,
            identity,
            Callers(config.callers, identity.callers_ca),
            RouteTable(config.routes, config.tunnel_domain),
            _resolver(config, lookup),
            Trust.load(config.upstream.tls, "upstream.tls"),
            _issuers(config, {}),
        )

    def with_config(self, config: ProxyConfig, lookup: LookUp) -> Live:
        """For other settings, or other files behind the same ones.

        The certificate is not read again unless its path changed: it has a watch of its own, and a pair that is just being
        replaced must not hold up a route.
        """
        moved = [name for name in _NEEDS_RESTART if getattr(config, name) != getattr(self.config, name)]
        if moved:
            raise ConfigError(f"{' and '.join(moved)} cannot change while running", hint="restart the proxy, or put it back")
        pair = self.identity.pair if config.tls == self.config.tls else None
        identity = Identity.load(config) if pair is None else Identity.of(pair, config)
        if identity.callers_ca == self.identity.callers_ca and pair is not None and config.callers == self.config.callers:
            identity = self.identity
        trust = Trust.load(config.upstream.tls, "upstream.tls")
        is_dialling_as_before = (config.upstream.allowed_ips, config.upstream.disable_ip_validation, config.limits.lookups) == (
            self.config.upstream.allowed_ips,
            self.config.upstream.disable_ip_validation,
            self.config.limits.lookups,
        )
        return Live(
            config,
            identity,
            Callers(config.callers, identity.callers_ca),
            RouteTable(config.routes, config.tunnel_domain),
            self.resolver if is_dialling_as_before else _resolver(config, lookup),
            self.trust if trust.is_same(self.trust) else trust,
            _issuers(config, self.issuers),
        )

    def with_pair(self, pair: KeyPair) -> Live:
        """For another certificate and its key; ConfigError or IdentityError for a pair that is worse than the one in use."""
        identity = Identity.of(pair, self.config)
        if identity.expires_at <= datetime.now(UTC):
            raise ConfigError("the new certificate has expired", detail=f"at {identity.expires_at.isoformat()}")
        return replace(self, identity=identity)

    def unnamed(self) -> list[str]:
        """Hosts that routes are for and the certificate does not name: every caller refuses it there."""
        names = dns_names(certs.load_certificate(self.identity.pair.certificate_pem))
        domain = self.config.tunnel_domain
        hosts = [name if "." in name else f"{name}.{domain}" for name in self.config.routes]
        return sorted(host for host in hosts if not any(covers(name, host) for name in names))

    def changes_from(self, before: Live) -> list[str]:
        """What is different, a line a setting: `routes.echo.url: http://a:1 → http://b:2`."""
        then, now = _flat(before.config), _flat(self.config)
        said = _flat(before.config, is_default_left_out=True).keys() | _flat(self.config, is_default_left_out=True).keys()
        changes = [
            f"{path}: {then.get(path, 'not set')} → {now.get(path, 'not set')}"
            for path in sorted(said)
            if then.get(path) != now.get(path)
        ]
        if self.identity.callers_ca != before.identity.callers_ca:
            changes.append("callers.ca_file: other content")
        if self.trust.ca != before.trust.ca:
            changes.append("upstream.tls.ca_file: other content")
        changes += [
            f"{config.ca_file}: other content"
            for config, trust in self.issuers.items()
            if config in before.issuers and trust is not before.issuers[config]
        ]
        return changes


def files_behind(config: ProxyConfig) -> list[Path]:
    """What is read with the settings, the certificate and its key apart."""
    issuers = [route.require_oauth.ca_file for route in config.routes.values() if route.require_oauth is not None]
    return [file for file in (config.callers.ca_file, config.upstream.tls.ca_file, *issuers) if file is not None]


def _issuers(config: ProxyConfig, before: Mapping[OAuthConfig, Trust]) -> Mapping[OAuthConfig, Trust]:
    """Whom each `require_oauth` trusts; the same object where that has not changed."""
    trusts: dict[OAuthConfig, Trust] = {}
    for name, route in config.routes.items():
        settings = route.require_oauth
        if settings is not None and settings not in trusts:
            trust, old = Trust.load(settings, f"routes.{name}.require_oauth"), before.get(settings)
            trusts[settings] = old if old is not None and old.is_same(trust) else trust
    return trusts


def _resolver(config: ProxyConfig, lookup: LookUp) -> Resolver:
    guard = Guard(config.upstream.allowed_ips, is_off=config.upstream.disable_ip_validation)
    return Resolver(guard, lookup=lookup, most=config.limits.lookups)


def _flat(config: ProxyConfig, *, is_default_left_out: bool = False) -> dict[str, str]:
    """Values by their dotted paths."""
    flat: dict[str, str] = {}
    left: list[tuple[str, object]] = [("", config.model_dump(mode="json", exclude_defaults=is_default_left_out))]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            inner = cast("dict[str, object]", value)
            left += [(f"{path}.{name}" if path else name, of) for name, of in inner.items()]
        else:
            flat[path] = str(value)
    return flat


def _read_callers_ca(file: Path) -> str:
    with named_by("callers.ca_file"):
        text = contexts.read_pem(file)
        try:
            certs.load_bundle(text)
        except IdentityError as exc:
            raise ConfigError(
                f"{file} holds no PEM certificate",
                detail=exc.detail,
                hint="`penstock setup init` writes callers-ca.crt; of the API's JSON only `caller_ca_pem` belongs in the file",
            ) from exc
        return text
