"""The two keys of a private side: its CA, which never leaves it, and the server key that the proxy uses."""

from __future__ import annotations

import os
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from penstock.errors import CertificateError, ConfigError, PenstockError
from penstock.secret import Secret
from penstock.setup import material
from penstock.tls import certs, rules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from penstock.setup.output import Output

CA_LIFE: Final = timedelta(days=5 * 365)


class KeyType(Enum):
    """Of the server's key. RSA-4096 is the published one; a handshake with P-256 costs the proxy a tenth."""

    RSA = "rsa"
    ECDSA = "ecdsa"

    def make(self) -> certs.PrivateKey:
        """A new key."""
        return certs.make_rsa_key() if self is KeyType.RSA else certs.make_ec_key()

    def fits(self, key: certs.PrivateKey) -> bool:
        """Whether `key` is of this type."""
        return isinstance(key, rsa.RSAPrivateKey) is (self is KeyType.RSA)


def new_authority(domain: str, now: datetime, *, endorsed_by: certs.Authority | None = None) -> certs.Authority:
    """A CA: P-256, five years.

    endorsed_by: the CA whose place it takes signs it, so that whoever remembers that one can tell the change from an attack.
    """
    name = f"CA of {now:%Y-%m-%d}, {domain}" if endorsed_by else f"{domain} CA"
    life = certs.Validity.lasting(now, CA_LIFE)
    return certs.make_ca(name, certs.make_ec_key(), life, serial=_serial(), issuer=endorsed_by)


def stored_authority(entries: Mapping[str, str]) -> certs.Authority | None:
    """The CA that is there, whole; None when there is none, or only a half that was never registered."""
    certificate, key = entries.get(material.CA_CERTIFICATE), entries.get(material.CA_KEY)
    if certificate and certificate == entries.get(material.NEXT_CA_CERTIFICATE):
        key = entries.get(material.NEXT_CA_KEY)  # killed while the next CA took its place: the certificate goes first
    return certs.Authority.load(certificate, Secret(key)) if certificate and key else None


def next_authority(entries: Mapping[str, str]) -> certs.Authority | None:
    """The CA that is to take the place of the stored one."""
    certificate, key = entries.get(material.NEXT_CA_CERTIFICATE), entries.get(material.NEXT_CA_KEY)
    return certs.Authority.load(certificate, Secret(key)) if certificate and key else None


def check_authority(authority: certs.Authority, output: Output, now: datetime) -> None:
    """Whether what is signed with it would be believed. Raises CertificateError or ConfigError."""
    if authority.key.public_key() != authority.certificate.public_key():
        raise ConfigError(
            f"ca.key in {output} is not the key of ca.crt",
            hint="bring back the two files that belong together, or remove both and run `penstock setup init`",
        )
    try:
        rules.check_ca_certificate(authority.certificate_pem, now)
    except CertificateError as exc:
        raise CertificateError(
            exc.rule,
            f"the CA in {output} is of no use: {exc.public}",
            detail=exc.detail,
            hint="replace it with `penstock setup rotate-ca`",
        ) from exc


def stored_key(entries: Mapping[str, str]) -> certs.PrivateKey | None:
    """The server's key, where there is one."""
    pem = entries.get(material.KEY)
    return certs.load_key(Secret(pem)) if pem else None


def server_certificate(
    authority: certs.Authority, key: certs.PrivateKey, domain: str, duration: timedelta, now: datetime
) -> str:
    """A certificate (PEM) for the domain and every route of it; it does not outlive its CA."""
    end = min(now + duration, authority.certificate.not_valid_after_utc)
    certificate = certs.issue_server(
        authority,
        key.public_key(),
        names=[domain, f"*.{domain}"],
        validity=certs.Validity.lasting(now, end - now),
        serial=_serial(),
    )
    return certs.certificate_to_pem(certificate)


def broken_rule(pem: str, key: certs.PrivateKey, authority: certs.Authority, domain: str, now: datetime) -> str | None:
    """Why a caller would refuse this server certificate at `now`, or None when it would not."""
    try:
        leaf = certs.load_certificate(pem)
        anchor = rules.check_ca_certificate(authority.certificate_pem, now)
        rules.check_server_certificate(certs.certificate_to_der(leaf), [anchor], f"any.{domain}", now)
    except PenstockError as exc:
        return exc.public
    if leaf.public_key() != key.public_key():
        return "the certificate is not of this key"
    return None


def _serial() -> int:
    return certs.serial_number(os.urandom(16))
