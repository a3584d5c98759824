"""What a certificate must be, as a table: each rule has an id, a sentence and a fix. `penstock.tls.rules` enforces it."""

from __future__ import annotations

from enum import Enum
from typing import Final

from penstock.errors import CertificateError

CA_LIMIT: Final = 8192
"""Bytes of PEM, as published."""


class Rule(Enum):
    """The value is the rule's id: it travels as a WebSocket close reason, so it is short ASCII."""

    CA_PEM = "ca-pem"
    CA_WELL_FORMED = "ca-well-formed"
    CA_SIZE = "ca-size"
    CA_ONE_CERTIFICATE = "ca-one-certificate"
    CA_NO_PRIVATE_KEY = "ca-no-private-key"
    CA_IS_CA = "ca-is-ca"
    CA_CRITICAL = "ca-critical"
    CA_KEY_IDENTIFIER = "ca-subject-key-identifier"
    CA_KEY_CERT_SIGN = "ca-key-cert-sign"
    CA_NOT_EXPIRED = "ca-not-expired"
    CA_VALID_YET = "ca-valid-yet"
    CA_STRONG_KEY = "ca-strong-key"
    CA_STRONG_HASH = "ca-strong-hash"
    CA_PIN = "ca-pin"

    SERVER_WELL_FORMED = "server-well-formed"
    SERVER_REGISTERED_CA = "server-registered-ca"
    SERVER_SIGNED_DIRECTLY = "server-signed-directly"
    SERVER_HAS_AKI = "server-authority-key-identifier"
    SERVER_AKI_MATCHES = "server-authority-key-identifier-matches"
    SERVER_NAME = "server-name"
    SERVER_AUTH = "server-auth"
    SERVER_NOT_EXPIRED = "server-not-expired"
    SERVER_VALID_YET = "server-valid-yet"
    SERVER_STRONG_KEY = "server-strong-key"
    SERVER_STRONG_HASH = "server-strong-hash"

    EDGE_TRUSTED = "edge-trusted"
    EDGE_NAME = "edge-name"
    EDGE_IN_TIME = "edge-in-time"
    CALLER_TRUSTED = "caller-trusted"
    CALLER_IDENTITY = "caller-identity"
    CALLER_IN_TIME = "caller-in-time"

    @property
    def sentence(self) -> str:
        """What is wrong when the rule is broken."""
        return _TEXTS[self][0]

    @property
    def fix(self) -> str:
        """What to do about it."""
        return _TEXTS[self][1]

    def broken(self, *, detail: str | None = None) -> CertificateError:
        """The error that says so."""
        return CertificateError(self.value, self.sentence, detail=detail, hint=self.fix)


_NEW_CA: Final = "make a new CA (`penstock setup init` does, or the documented openssl command) and register it"
_NEW_SERVER: Final = "sign a new server certificate with the registered CA (`penstock setup renew-cert`)"
_NEW_CALLER: Final = "get a new caller certificate from the control plane; the client library renews it by itself"
_STRONG_KEY: Final = "use RSA of 2048 bits or more, or ECDSA on P-256, P-384 or P-521"

_TEXTS: Final[dict[Rule, tuple[str, str]]] = {
    Rule.CA_PEM: (
        "the CA certificate is not PEM",
        "send the text from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----",
    ),
    Rule.CA_WELL_FORMED: ("the CA certificate is malformed", _NEW_CA),
    Rule.CA_SIZE: (f"the CA certificate is over {CA_LIMIT} bytes", "send the CA certificate alone, without chain or text"),
    Rule.CA_ONE_CERTIFICATE: ("exactly one certificate is expected", "send the CA certificate alone, without a chain"),
    Rule.CA_NO_PRIVATE_KEY: (
        "the text holds a private key",
        "send the certificate only; treat the key as disclosed and make a new CA",
    ),
    Rule.CA_IS_CA: (
        "the certificate is not a CA: BasicConstraints with CA:TRUE is missing",
        "add basicConstraints=critical,CA:TRUE",
    ),
    Rule.CA_CRITICAL: ("BasicConstraints of the CA certificate is not critical", "use basicConstraints=critical,CA:TRUE"),
    Rule.CA_KEY_IDENTIFIER: ("the CA certificate has no SubjectKeyIdentifier", "add subjectKeyIdentifier=hash"),
    Rule.CA_KEY_CERT_SIGN: (
        "KeyUsage of the CA certificate does not include keyCertSign",
        "use keyUsage=critical,keyCertSign,cRLSign",
    ),
    Rule.CA_NOT_EXPIRED: ("the CA certificate has expired", _NEW_CA),
    Rule.CA_VALID_YET: ("the CA certificate is not yet valid", "check the clocks of this machine and of the one that made it"),
    Rule.CA_STRONG_KEY: ("the CA's key is too weak", _STRONG_KEY),
    Rule.CA_STRONG_HASH: ("the CA certificate's signature is weaker than SHA-256", "sign it with SHA-256 or stronger"),
    Rule.CA_PIN: (
        "the tunnel's CA is not the one that is remembered, and that one did not sign it",
        "ask the tunnel's owner whether the CA was changed; if so, `penstock pins forget HOST`, or change PENSTOCK_CA_PIN",
    ),
    Rule.SERVER_WELL_FORMED: ("the server certificate is malformed", _NEW_SERVER),
    Rule.SERVER_REGISTERED_CA: ("the server certificate is not signed by a CA registered on the tunnel", _NEW_SERVER),
    Rule.SERVER_SIGNED_DIRECTLY: (
        "the server certificate is signed through an intermediate, not directly by a registered CA",
        "sign it with the registered CA itself, or register the intermediate",
    ),
    Rule.SERVER_HAS_AKI: (
        "the server certificate has no AuthorityKeyIdentifier",
        "add authorityKeyIdentifier=keyid,issuer when signing it",
    ),
    Rule.SERVER_AKI_MATCHES: (
        "the server certificate's AuthorityKeyIdentifier is not the registered CA's SubjectKeyIdentifier",
        "sign it again with authorityKeyIdentifier=keyid,issuer and the CA certificate that is registered",
    ),
    Rule.SERVER_NAME: (
        "the server certificate does not cover the route's hostname",
        "its subjectAltName needs DNS:*.<tunnel-domain>, or the route's full name",
    ),
    Rule.SERVER_AUTH: (
        "the server certificate is not for servers: ExtendedKeyUsage lacks serverAuth, or KeyUsage lacks digitalSignature",
        "sign it again with extendedKeyUsage=serverAuth, and keyUsage absent or with digitalSignature",
    ),
    Rule.SERVER_NOT_EXPIRED: ("the server certificate has expired", _NEW_SERVER),
    Rule.SERVER_VALID_YET: (
        "the server certificate is not yet valid",
        "check the clocks of this machine and of the one that made it",
    ),
    Rule.SERVER_STRONG_KEY: ("the server certificate's key is too weak", _STRONG_KEY),
    Rule.SERVER_STRONG_HASH: ("the server certificate's signature is weaker than SHA-256", "sign it with SHA-256 or stronger"),
    Rule.EDGE_TRUSTED: (
        "the edge's certificate is not from the edge CA of this control plane",
        "check the edge's address, and that something in between does not end its TLS",
    ),
    Rule.EDGE_NAME: (
        "the edge's certificate is for another name",
        "check the edge's address; the edge may have to enrol again",
    ),
    Rule.EDGE_IN_TIME: ("the edge's certificate is outside its validity", "check the clocks; the edge may have to enrol again"),
    Rule.CALLER_TRUSTED: ("the client certificate is not from the caller CA", _NEW_CALLER),
    Rule.CALLER_IDENTITY: ("the client certificate names no caller", _NEW_CALLER),
    Rule.CALLER_IN_TIME: ("the client certificate is outside its validity", _NEW_CALLER),
}
