"""`setup check`: a directory, made by setup or by hand, against every rule that a caller or the platform would hold it to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from penstock.errors import ConfigError, PenstockError
from penstock.protocol.token import parse_token
from penstock.secret import Secret
from penstock.setup import material
from penstock.tls import certs, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography import x509

    from penstock.client.control import ControlClient
    from penstock.schema.tunnels import TunnelCertificate


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. problem: what is wrong with it, None when nothing; hint: what to do; note: what is right with it."""

    subject: str
    problem: str | None = None
    hint: str | None = None
    note: str | None = None


def check_files(entries: Mapping[str, str], domain: str, now: datetime | None = None) -> list[Finding]:
    """What can be said without anybody's help."""
    now = now or datetime.now(UTC)
    return [
        _guarded("CA certificate (ca.crt)", lambda: _ca(entries, now)),
        _guarded("server certificate (tls.crt, tls.key)", lambda: _server(entries, domain, now)),
        *([_guarded("CA key (ca.key)", lambda: _ca_key(entries))] if material.CA_KEY in entries else []),
        *([_guarded("agent's token (tunnel-token)", lambda: _token(entries))] if material.TOKEN in entries else []),
    ]


async def check_platform(entries: Mapping[str, str], platform: ControlClient, tunnel_id: str) -> list[Finding]:
    """Whether the platform knows the tunnel, under this domain, with this CA."""
    try:
        tunnel = await platform.tunnel(tunnel_id)
        registered = await platform.certificates(tunnel_id)
    except PenstockError as exc:
        return [Finding(f"tunnel {tunnel_id}", exc.public, exc.hint)]
    found = [
        Finding(f"tunnel {tunnel_id}", "it is archived, for ever" if tunnel.archived_at else None, "make another tunnel"),
    ]
    domain = entries.get(material.DOMAIN, "").strip()
    if domain:
        wrong = f"the platform says {tunnel.domain}, the directory {domain}" if domain != tunnel.domain else None
        found.append(Finding("tunnel domain", wrong, f"write {tunnel.domain} to tunnel-domain, and issue the certificate anew"))
    if material.CA_CERTIFICATE in entries:
        found.append(_guarded("CA registered", lambda: _registered(entries, registered)))
    return found


def _registered(entries: Mapping[str, str], registered: Sequence[TunnelCertificate]) -> str:
    fingerprint = certs.fingerprint(certs.load_certificate(entries[material.CA_CERTIFICATE]))
    for certificate in registered:
        if certificate.fingerprint == fingerprint:
            return f"as {certificate.id}"
    raise ConfigError(
        f"{fingerprint[:16]}… is not among the tunnel's {len(registered)} active CAs",
        hint="register ca.crt on the tunnel: until then no caller trusts the proxy",
    )


def _guarded(subject: str, check: Callable[[], str | None]) -> Finding:
    try:
        return Finding(subject, note=check())
    except PenstockError as exc:
        return Finding(subject, f"{exc.public} ({exc.detail})" if exc.detail else exc.public, exc.hint)


def _ca(entries: Mapping[str, str], now: datetime) -> str:
    return _until(rules.check_ca_certificate(_need(entries, material.CA_CERTIFICATE), now).certificate, now)


def _server(entries: Mapping[str, str], domain: str, now: datetime) -> str:
    leaf = certs.load_certificate(_need(entries, material.CERTIFICATE))
    key = certs.load_key(Secret(_need(entries, material.KEY)))
    if leaf.public_key() != key.public_key():
        raise ConfigError("tls.key is not the key of tls.crt", hint="issue the certificate from this key's request")
    anchor = rules.check_ca_certificate(_need(entries, material.CA_CERTIFICATE), now)
    name = domain or entries.get(material.DOMAIN, "").strip()
    if not name:
        raise ConfigError("the tunnel's domain is not known", hint="give it with --tunnel-domain, or write it to tunnel-domain")
    rules.check_server_certificate(certs.certificate_to_der(leaf), [anchor], f"any.{name}", now)
    return _until(leaf, now)


def _ca_key(entries: Mapping[str, str]) -> None:
    if not certs.belong_together(_need(entries, material.CA_CERTIFICATE), Secret(entries[material.CA_KEY])):
        raise ConfigError("ca.key is not the key of ca.crt", hint="bring back the two files that belong together")


def _token(entries: Mapping[str, str]) -> str:
    said = parse_token(entries[material.TOKEN])
    many = len(said.edges)
    return f"it names {many} edge{'' if many == 1 else 's'}" if many else "it names no edges: the agent has to be told"


def _until(certificate: x509.Certificate, now: datetime) -> str:
    end = certificate.not_valid_after_utc
    return f"until {end:%Y-%m-%d}, {(end - now).days} days"


def _need(entries: Mapping[str, str], name: str) -> str:
    text = entries.get(name)
    if text is None:
        raise ConfigError(f"there is no {name}", hint=f"put {name} into the directory, or run `penstock setup init`")
    return text
