"""Make, sign, read and write certificates and their keys.

Times and serial numbers are arguments; only a private key's own randomness comes from the crypto library.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from penstock.errors import ConfigError, IdentityError
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far certificates are dated back: peers' clocks differ, and a certificate "not yet valid" helps nobody."""

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises on a stranger's certificate, at loading or when a part is first looked at; most have only Exception
as their parent, so every place that reads one catches all of them."""

_SERIAL_BYTES: Final = 16  # RFC 5280 4.1.2.2 allows 20; 128 bits collide with nobody
_CSR_LIMIT: Final = 16_384  # an RSA-4096 request is under 2 KiB; the rest is someone else's data
_MIN_RSA: Final = 2048
_MAX_RSA: Final = 8192  # twice the published setup's; the work grows with the square of it, and strangers choose it
_MAX_EXPONENT: Final = 1 << 32  # all the world has 65537; OpenSSL takes one as long as the modulus below 3072 bits
_CURVES: Final = {"secp256r1", "secp384r1", "secp521r1"}  # the published ">= P-256", and what TLS 1.3 can sign with


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate holds."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def lasting(cls, now: datetime, span: timedelta, *, skew: timedelta = CLOCK_SKEW) -> Validity:
        """`span` from `now` on, dated back by `skew`."""
        return cls(now - skew, now + span)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain (PEM, leaf first) and the private key of its leaf: what one end of a handshake presents."""

    certificate_pem: str
    key_pem: Secret

    @classmethod
    def of(cls, certificate: x509.Certificate, key: PrivateKey) -> KeyPair:
        """The pair of one certificate without intermediates."""
        return cls(certificate_to_pem(certificate), key_to_pem(key))


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA's certificate and the key that signs in its name."""

    certificate: x509.Certificate
    key: PrivateKey

    @classmethod
    def load(cls, certificate_pem: str | bytes, key_pem: Secret) -> Authority:
        """An authority from its two PEM texts."""
        return cls(load_certificate(certificate_pem), load_key(key_pem))

    @property
    def certificate_pem(self) -> str:
        """The public half, as peers and files have it."""
        return certificate_to_pem(self.certificate)

    @property
    def key_pem(self) -> Secret:
        """The private half."""
        return key_to_pem(self.key)


# --- keys -------------------------------------------------------------------------------------------------------------


def make_ec_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key: a handshake costs a tenth of what RSA-4096 costs."""
    return ec.generate_private_key(ec.SECP256R1())


def make_rsa_key(bits: int = 4096) -> rsa.RSAPrivateKey:
    """An RSA key, as the published setup makes for servers."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def is_strong_key(key: object) -> bool:
    """Whether a public key meets the published floor: RSA of 2048 bits or more, or ECDSA on P-256, P-384 or P-521."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _MIN_RSA
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES


def is_costly_key(key: object) -> bool:
    """Whether a signature by it takes so much work to verify that a stranger's must not be."""
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    return key.key_size > _MAX_RSA or key.public_numbers().e > _MAX_EXPONENT


def key_to_pem(key: PrivateKey) -> Secret:
    """PKCS #8, unencrypted: the file's mode or the envelope around it is the protection."""
    encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Secret(encoded.decode())


def load_key(pem: Secret) -> PrivateKey:
    """An RSA or ECDSA private key. Raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(pem.reveal().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(
            "the private key cannot be read",
            detail=type(exc).__name__,  # the library's text may quote the input
            hint="it must be one unencrypted PEM key, RSA or ECDSA",
        ) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigError("the private key is neither RSA nor ECDSA", hint="make a P-256 key or RSA of 2048 bits or more")
    return key


# --- certificates -----------------------------------------------------------------------------------------------------


def serial_number(entropy: bytes) -> int:
    """A positive serial number from 16 bytes of entropy or more."""
    if len(entropy) < _SERIAL_BYTES:
        msg = f"a serial number needs {_SERIAL_BYTES} bytes of entropy"
        raise ValueError(msg)
    # The high bit set keeps it positive and of one length, whatever the bytes.
    return int.from_bytes(entropy[:_SERIAL_BYTES], "big") | (1 << (_SERIAL_BYTES * 8 - 1))


def make_ca(
    name: str, key: PrivateKey, validity: Validity, *, serial: int, issuer: Authority | None = None, path_length: int | None = 0
) -> Authority:
    """A CA certificate that obeys the published rules, self-signed unless `issuer` signs it.

    `path_length` 0 is the direct-signing rule said in the certificate: no intermediate may stand below it.
    """
    public_key = key.public_key()
    builder = (
        _builder(name, issuer.certificate.subject if issuer else _name(name), public_key, validity, serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(sign=False, ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if issuer:
        builder = builder.add_extension(_authority_key_identifier(issuer), critical=False)
    return Authority(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def issue_server(
    authority: Authority,
    public_key: PublicKey,
    *,
    names: Iterable[str],
    validity: Validity,
    serial: int,
    is_client_too: bool = False,
) -> x509.Certificate:
    """A server certificate for DNS names (wildcards too) and IP addresses; the first name is its common name.

    `is_client_too`: it proves its holder to other servers as well, as an edge does to the other edges.
    """
    listed = list(dict.fromkeys(names))
    if not listed:
        msg = "a server certificate needs a name"
        raise ValueError(msg)
    return _issue(
        authority,
        public_key,
        name=listed[0],
        alternatives=[_general_name(name) for name in listed],
        usages=[ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if is_client_too else [])],
        validity=validity,
        serial=serial,
    )


def issue_client(
    authority: Authority, public_key: PublicKey, *, name: str, uri: str, validity: Validity, serial: int
) -> x509.Certificate:
    """A client certificate that speaks for `uri` (see `penstock.tls.names`); `name` is for people only."""
    return _issue(
        authority,
        public_key,
        name=name,
        alternatives=[x509.UniformResourceIdentifier(uri)],
        usages=[ExtendedKeyUsageOID.CLIENT_AUTH],
        validity=validity,
        serial=serial,
    )


def certificate_to_pem(certificate: x509.Certificate) -> str:
    """One PEM block."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def certificate_to_der(certificate: x509.Certificate) -> bytes:
    """The bytes that are hashed, signed and compared."""
    return certificate.public_bytes(serialization.Encoding.DER)


def load_certificate(encoded: str | bytes) -> x509.Certificate:
    """One certificate, PEM or DER, every part of it readable. Raises IdentityError."""
    data = encoded.encode() if isinstance(encoded, str) else encoded
    try:
        is_pem = data.lstrip().startswith(b"-----")
        certificate = x509.load_pem_x509_certificate(data) if is_pem else x509.load_der_x509_certificate(data)
        # Parsed lazily by the library: looked at here, so that nobody who holds a certificate meets these errors later.
        _ = certificate.public_key(), certificate.extensions, certificate.subject, certificate.issuer
    except UNREADABLE as exc:
        raise IdentityError(
            "the certificate cannot be read", detail=str(exc), hint="one X.509 certificate is expected"
        ) from exc
    return certificate


def load_bundle(pem: str) -> list[x509.Certificate]:
    """Every certificate of a PEM bundle, text between them ignored; IdentityError where there is none."""
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except UNREADABLE as exc:
        raise IdentityError("the certificates cannot be read", detail=str(exc), hint="a PEM bundle is expected") from exc


def belong_together(certificate_pem: str, key_pem: Secret) -> bool:
    """Whether the key is the certificate's own."""
    try:
        return load_certificate(certificate_pem).public_key() == load_key(key_pem).public_key()
    except (ConfigError, IdentityError):
        return False


def is_issued_by(certificate: x509.Certificate, authorities: Iterable[x509.Certificate]) -> bool:
    """Whether one of these CAs signed it itself. That its time is now is another question."""
    for authority in authorities:
        try:
            if certificate.issuer == authority.subject:
                certificate.verify_directly_issued_by(authority)
                return True
        except (*UNREADABLE, InvalidSignature):
            continue
    return False


def fingerprint(certificate: x509.Certificate) -> str:
    """Lowercase hex SHA-256 of the DER, as the Tunnels API shows it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def serial_hex(certificate: x509.Certificate) -> str:
    """Lowercase hex without leading zeros, as feeds and logs have it."""
    return f"{certificate.serial_number:x}"


# --- requests ---------------------------------------------------------------------------------------------------------


def make_csr(key: PrivateKey, name: str) -> str:
    """A PEM certificate request; whoever signs decides every name, `name` is only a label."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def load_csr(pem: str) -> PublicKey:
    """The public key of a request whose signature proves that its maker holds the private one. Raises IdentityError.

    Nothing else of the request is read: names and extensions are decided by the issuer.
    """
    try:
        # The size first: a parser is not given megabytes by strangers.
        request = x509.load_pem_x509_csr(pem[: _CSR_LIMIT + 1].encode())
        key = request.public_key()
        proven = len(pem) <= _CSR_LIMIT and not is_costly_key(key) and request.is_signature_valid
    except UNREADABLE as exc:
        raise IdentityError(
            "the certificate request cannot be read", detail=str(exc), hint="send one PEM `CERTIFICATE REQUEST` (PKCS #10)"
        ) from exc
    if is_costly_key(key):
        raise IdentityError(
            "the key in the certificate request is too large", hint="use ECDSA P-256, or RSA of 2048 to 8192 bits with 65537"
        )
    if not proven:
        raise IdentityError(
            "the certificate request is not signed by its own key",
            hint="sign the request with the private key of the pair it names",
        )
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or not is_strong_key(key):
        raise IdentityError(
            "the key in the certificate request is too weak", hint="use ECDSA P-256 or RSA of 2048 bits or more"
        )
    return key


# --- parts ------------------------------------------------------------------------------------------------------------


def _issue(
    authority: Authority,
    public_key: PublicKey,
    *,
    name: str,
    alternatives: list[x509.GeneralName],
    usages: list[x509.ObjectIdentifier],
    validity: Validity,
    serial: int,
) -> x509.Certificate:
    return (
        _builder(name, authority.certificate.subject, public_key, validity, serial)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign=True, ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key_identifier(authority), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(subject: str, issuer: x509.Name, key: PublicKey, validity: Validity, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(validity.not_before.astimezone(UTC))
        .not_valid_after(validity.not_after.astimezone(UTC))
    )


def _authority_key_identifier(authority: Authority) -> x509.AuthorityKeyIdentifier:
    # Of the CA's own extension, not of its key: the rule compares the two extensions, and another tool may hash otherwise.
    try:
        extension = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension.value)


def _key_usage(*, sign: bool, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    # A common name ends at 64 characters (RFC 5280, upper bounds); verifiers look at the alternative names only.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
