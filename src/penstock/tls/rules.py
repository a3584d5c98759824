"""Checks certificates against the rulebook; every refusal names exactly one rule.

The CA and server rules are the published ones, word for word in meaning. Some are enforced by OpenSSL inside the handshake
(and explained here from its verify code), the rest by the checks here, before our side of the handshake is finished.

What OpenSSL cannot tell apart. A leaf from an unknown CA and a leaf of ours whose AuthorityKeyIdentifier names another key
both end as code 20, for OpenSSL picks the issuer *by* that identifier; and it drops the refused certificate. So
`explain_verification` names both in one sentence, and `diagnose` names the one, given the leaf from a second look
(`contexts.caller_inspection`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from penstock.errors import CertificateError, IdentityError
from penstock.tls import certs
from penstock.tls.names import CallerIdentity, caller_identity
from penstock.tls.rulebook import CA_LIMIT, Rule

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence
    from datetime import datetime

__all__ = [
    "CA_LIMIT",
    "CaCertificate",
    "Peer",
    "Rule",
    "check_ca_certificate",
    "check_caller_certificate",
    "check_server_certificate",
    "covers",
    "diagnose",
    "explain_verification",
    "usable_anchors",
]

_T = TypeVar("_T", bound=x509.ExtensionType)


class Peer(Enum):
    """Whose certificate was refused."""

    PROXY = "proxy"
    EDGE = "edge"
    CALLER = "caller"


# --- CA certificates --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """A CA certificate that obeyed every rule when it was checked; `pem` is its one block, without the text around it."""

    certificate: x509.Certificate
    pem: str
    fingerprint: str
    key_identifier: bytes

    @property
    def expires_at(self) -> datetime:
        """When it ends, in UTC."""
        return self.certificate.not_valid_after_utc


_BLOCK: Final = re.compile(rb"-----BEGIN ([^\r\n-]*)-----")


def check_ca_certificate(pem: str | bytes, now: datetime) -> CaCertificate:
    """A CA certificate as it may be registered on a tunnel. Raises CertificateError with the first rule it breaks."""
    certificate = _one_certificate(pem.encode() if isinstance(pem, str) else pem)
    try:
        return _checked_ca(certificate, now)
    except certs.UNREADABLE as exc:
        raise Rule.CA_WELL_FORMED.broken(detail=str(exc)) from exc


def usable_anchors(pems: Iterable[str | bytes], now: datetime) -> tuple[CaCertificate, ...]:
    """The anchors that still obey the rules. Raises the first one's CertificateError when none does.

    Leaving out those outside their validity also keeps OpenSSL's "expired" (code 10) unambiguous: it is then the leaf's.
    """
    good: list[CaCertificate] = []
    refusal: CertificateError | None = None
    for pem in pems:
        try:
            good.append(check_ca_certificate(pem, now))
        except CertificateError as exc:
            refusal = refusal or exc
    if good:
        return tuple(good)
    raise refusal or Rule.SERVER_REGISTERED_CA.broken(detail="the tunnel has no CA certificate")


def _one_certificate(data: bytes) -> x509.Certificate:
    # Private keys first: whatever else is wrong, this is what its owner must hear.
    kinds = _BLOCK.findall(data)
    if any(b"PRIVATE KEY" in kind for kind in kinds):
        raise Rule.CA_NO_PRIVATE_KEY.broken()
    if len(data) > CA_LIMIT:
        raise Rule.CA_SIZE.broken(detail=f"{len(data)} bytes")
    if not kinds:
        raise Rule.CA_PEM.broken()
    if kinds != [b"CERTIFICATE"]:
        raise Rule.CA_ONE_CERTIFICATE.broken(detail=f"{len(kinds)} blocks")
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as exc:
        raise Rule.CA_PEM.broken(detail=str(exc)) from exc
    except certs.UNREADABLE as exc:  # such as a version that X.509 does not have
        raise Rule.CA_WELL_FORMED.broken(detail=str(exc)) from exc


def _checked_ca(certificate: x509.Certificate, now: datetime) -> CaCertificate:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    identifier = _extension(certificate, x509.SubjectKeyIdentifier)
    if constraints is None or not constraints.value.ca:
        raise Rule.CA_IS_CA.broken()
    if not constraints.critical:
        raise Rule.CA_CRITICAL.broken()
    if identifier is None:
        raise Rule.CA_KEY_IDENTIFIER.broken()
    if usage is None or not usage.value.key_cert_sign:
        raise Rule.CA_KEY_CERT_SIGN.broken()
    if not certs.is_strong_key(certificate.public_key()):
        raise Rule.CA_STRONG_KEY.broken()
    if not _has_strong_hash(certificate):
        raise Rule.CA_STRONG_HASH.broken()
    if now < certificate.not_valid_before_utc:
        raise Rule.CA_VALID_YET.broken(detail=f"valid from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    if now > certificate.not_valid_after_utc:
        raise Rule.CA_NOT_EXPIRED.broken(detail=f"valid until {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    return CaCertificate(
        certificate, certs.certificate_to_pem(certificate), certs.fingerprint(certificate), identifier.value.digest
    )


# --- server certificates ----------------------------------------------------------------------------------------------


def check_server_certificate(leaf: bytes, anchors: Sequence[CaCertificate], hostname: str, now: datetime) -> None:
    """Every published rule for the certificate a proxy presents. Raises CertificateError.

    Run on every inner handshake, resumed or not, after OpenSSL accepted the chain and before our Finished leaves: OpenSSL
    accepts intermediates, and a resumed session is not verified again. `leaf` is DER, `hostname` a normalized name.
    """
    _check_server(leaf, anchors, hostname, now, unsigned=Rule.SERVER_SIGNED_DIRECTLY)


def _check_server(leaf: bytes, anchors: Sequence[CaCertificate], hostname: str, now: datetime, *, unsigned: Rule) -> None:
    try:
        certificate = x509.load_der_x509_certificate(leaf)
        _check_leaf(certificate, hostname, now)
        _check_issuer(certificate, anchors, unsigned)
    except certs.UNREADABLE as exc:
        raise Rule.SERVER_WELL_FORMED.broken(detail=str(exc)) from exc


def _check_leaf(leaf: x509.Certificate, hostname: str, now: datetime) -> None:
    if not certs.is_strong_key(leaf.public_key()):
        raise Rule.SERVER_STRONG_KEY.broken()
    if not _has_strong_hash(leaf):
        raise Rule.SERVER_STRONG_HASH.broken()
    if now < leaf.not_valid_before_utc:
        raise Rule.SERVER_VALID_YET.broken(detail=f"valid from {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    if now > leaf.not_valid_after_utc:
        raise Rule.SERVER_NOT_EXPIRED.broken(detail=f"valid until {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    usages = _extension(leaf, x509.ExtendedKeyUsage)
    if usages is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usages.value:
        raise Rule.SERVER_AUTH.broken()
    names = _extension(leaf, x509.SubjectAlternativeName)
    patterns = names.value.get_values_for_type(x509.DNSName) if names is not None else []
    if not any(covers(pattern, hostname) for pattern in patterns):
        raise Rule.SERVER_NAME.broken(detail=f"{hostname} is not among {patterns!r:.500}")


def _check_issuer(leaf: x509.Certificate, anchors: Sequence[CaCertificate], unsigned: Rule) -> None:
    signers = [anchor for anchor in anchors if _is_signed_by(leaf, anchor.certificate)]
    if not signers:
        raise unsigned.broken(detail=f"issuer: {leaf.issuer.rfc4514_string()!r:.200}")
    identifier = _extension(leaf, x509.AuthorityKeyIdentifier)
    if identifier is None or identifier.value.key_identifier is None:
        raise Rule.SERVER_HAS_AKI.broken()
    if not any(identifier.value.key_identifier == anchor.key_identifier for anchor in signers):
        raise Rule.SERVER_AKI_MATCHES.broken(detail=f"it is {identifier.value.key_identifier.hex()}")


def covers(pattern: str, hostname: str) -> bool:
    """Whether a DNS name of a certificate covers `hostname`: equal, or `*.` in place of exactly one label (RFC 6125 6.4.3)."""
    pattern, hostname = pattern.lower(), hostname.lower()
    if not pattern.startswith("*."):
        return pattern == hostname and bool(hostname)
    label, _, rest = hostname.partition(".")
    return bool(label) and bool(rest) and "*" not in rest and rest == pattern[2:]


def _is_signed_by(leaf: x509.Certificate, anchor: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(anchor)
    except (*certs.UNREADABLE, InvalidSignature):
        return False
    return True


# --- callers' certificates --------------------------------------------------------------------------------------------


def check_caller_certificate(leaf: bytes, now: datetime) -> CallerIdentity:
    """Who a caller is, from a certificate the handshake verified, or a session resumed. Raises CertificateError.

    Run on every connection, resumed or not: a session outlives the 24 hours of the certificate it was made with.
    """
    try:
        certificate = certs.load_certificate(leaf)
        identity = caller_identity(leaf)
    except CertificateError:
        raise
    except IdentityError as exc:
        raise Rule.CALLER_IDENTITY.broken(detail=exc.detail) from exc
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Rule.CALLER_IN_TIME.broken(detail=f"until {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    return identity


# --- what OpenSSL refused ---------------------------------------------------------------------------------------------

# X509_V_ERR_* of <openssl/x509_vfy.h>; what each certificate of tests/support/ca.py ends with under OpenSSL 3.
_UNTRUSTED: Final = (2, 18, 19, 20, 21, 27, 28)
_CODES: Final[dict[Peer, tuple[Rule, dict[int, Rule]]]] = {
    Peer.PROXY: (
        Rule.SERVER_WELL_FORMED,
        {
            **dict.fromkeys(_UNTRUSTED, Rule.SERVER_REGISTERED_CA),
            4: Rule.SERVER_REGISTERED_CA,  # signature undecipherable
            7: Rule.SERVER_REGISTERED_CA,  # it names our CA and carries another's signature
            9: Rule.SERVER_VALID_YET,
            10: Rule.SERVER_NOT_EXPIRED,
            22: Rule.SERVER_SIGNED_DIRECTLY,  # chain too long
            25: Rule.SERVER_SIGNED_DIRECTLY,  # the registered CA itself allows no intermediate (pathlen:0)
            24: Rule.CA_IS_CA,
            79: Rule.CA_IS_CA,
            26: Rule.SERVER_AUTH,
            32: Rule.CA_KEY_CERT_SIGN,
            62: Rule.SERVER_NAME,
            64: Rule.SERVER_NAME,
            66: Rule.SERVER_STRONG_KEY,
            67: Rule.CA_STRONG_KEY,
            68: Rule.SERVER_STRONG_HASH,  # of what a CA signed: with no intermediates, the leaf
            85: Rule.SERVER_HAS_AKI,
            86: Rule.CA_KEY_IDENTIFIER,
            89: Rule.CA_CRITICAL,
        },
    ),
    Peer.EDGE: (Rule.EDGE_TRUSTED, {9: Rule.EDGE_IN_TIME, 10: Rule.EDGE_IN_TIME, 62: Rule.EDGE_NAME, 64: Rule.EDGE_NAME}),
    Peer.CALLER: (Rule.CALLER_TRUSTED, {9: Rule.CALLER_IN_TIME, 10: Rule.CALLER_IN_TIME}),
}


def explain_verification(error: ssl.SSLCertVerificationError, peer: Peer = Peer.PROXY) -> CertificateError:
    """The rule behind OpenSSL's refusal of a peer's certificate."""
    otherwise, codes = _CODES[peer]
    rule = codes.get(error.verify_code, otherwise)
    detail = f"OpenSSL {error.verify_code}: {error.verify_message}"
    if rule is Rule.SERVER_REGISTERED_CA and error.verify_code in _UNTRUSTED:
        # Honest about what cannot be told apart from here; `diagnose` can.
        sentence = f"{rule.sentence}, or its AuthorityKeyIdentifier names another key"
        return CertificateError(
            rule.value, sentence, detail=detail, hint=f"{rule.fix}, with authorityKeyIdentifier=keyid,issuer"
        )
    return rule.broken(detail=detail)


def diagnose(
    error: ssl.SSLCertVerificationError, leaf: bytes, anchors: Sequence[CaCertificate], hostname: str, now: datetime
) -> CertificateError:
    """The one rule that a refused server certificate broke, seen again in a second handshake that carried no payload."""
    if error.verify_code not in _UNTRUSTED:
        return explain_verification(error)  # said plainly enough the first time
    try:
        _check_server(leaf, anchors, hostname, now, unsigned=Rule.SERVER_REGISTERED_CA)
    except CertificateError as exc:
        exc.detail = f"{exc.detail or ''} (OpenSSL {error.verify_code}: {error.verify_message})".strip()
        return exc
    return explain_verification(error)


# --- parts ------------------------------------------------------------------------------------------------------------


def _has_strong_hash(certificate: x509.Certificate) -> bool:
    algorithm = certificate.signature_hash_algorithm
    return algorithm is not None and algorithm.digest_size >= 32


def _extension(certificate: x509.Certificate, kind: type[_T]) -> x509.Extension[_T] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
