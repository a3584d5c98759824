"""A test CA that makes good certificates, and ones that break exactly one rule each."""

from __future__ import annotations

import secrets
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from penstock.tls import certs
from penstock.tls.certs import Authority, KeyPair, PrivateKey, Validity
from penstock.tls.names import caller_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.tls.contexts import TLSContext

DOMAIN = "ab12cd34.tunnel.penstock.internal"
HOST = f"echo.{DOMAIN}"
ORGANIZATION = "6f1c2d0a-5a2e-4f0e-9f57-1f1d6a0f4f10"
WORKSPACE = "wrkspc_01TestWorkspace"
CALLER = "clr_01TestCaller"

YEAR = timedelta(days=365)

_SHA256_WITH_RSA = bytes.fromhex("2a864886f70d01010b")
_SHA1_WITH_RSA = bytes.fromhex("2a864886f70d010105")


def serial() -> int:
    return certs.serial_number(secrets.token_bytes(16))


def valid(span: timedelta = YEAR, *, starts_in: timedelta = -timedelta(hours=1)) -> Validity:
    start = datetime.now(UTC) + starts_in
    return Validity(start, start + span)


EXPIRED = (timedelta(days=1), -timedelta(days=2))  # span, starts_in
NOT_YET_VALID = (timedelta(days=2), timedelta(days=1))


def ca(
    name: str = "mcp-tunnel-ca",
    *,
    issuer: Authority | None = None,
    key: PrivateKey | None = None,
    validity: Validity | None = None,
    path_length: int | None = None,
    is_ca: bool = True,
    critical: bool = True,
    basic_constraints: bool = True,
    key_identifier: bool = True,
    key_cert_sign: bool = True,
    sha1: bool = False,
) -> Authority:
    """A CA certificate, good unless an argument says otherwise; self-signed unless `issuer` signs it."""
    key = key or (certs.make_rsa_key(2048) if sha1 else certs.make_ec_key())
    validity = validity or valid()
    builder = _builder(name, issuer.certificate.subject if issuer else _name(name), key, validity)
    if basic_constraints:
        constraints = x509.BasicConstraints(ca=is_ca, path_length=path_length if is_ca else None)
        builder = builder.add_extension(constraints, critical=critical)
    builder = builder.add_extension(_usage(sign=not key_cert_sign, cert_sign=key_cert_sign), critical=True)
    if key_identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if issuer:
        builder = builder.add_extension(_authority_key(issuer.certificate), critical=False)
    signer = issuer.key if issuer else key
    return Authority(_sign(builder, signer, sha1=sha1), key)


def server(
    authority: Authority,
    *names: str,
    key: PrivateKey | None = None,
    validity: Validity | None = None,
    key_identifier: x509.AuthorityKeyIdentifier | bool = True,
    usages: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.SERVER_AUTH,),
    chain: Sequence[x509.Certificate] = (),
    sha1: bool = False,
) -> KeyPair:
    """A server's pair, good for `*.DOMAIN` unless an argument says otherwise; `chain` is sent along."""
    key = key or certs.make_ec_key()
    names = names or (DOMAIN, f"*.{DOMAIN}")
    builder = _builder(names[0], authority.certificate.subject, key, validity or valid())
    alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
    builder = builder.add_extension(alternatives, critical=False)
    if key_identifier is True:
        builder = builder.add_extension(_authority_key(authority.certificate), critical=False)
    elif isinstance(key_identifier, x509.AuthorityKeyIdentifier):
        builder = builder.add_extension(key_identifier, critical=False)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    leaf = _sign(builder, authority.key, sha1=sha1)
    pem = "".join(certs.certificate_to_pem(certificate) for certificate in (leaf, *chain))
    return KeyPair(pem, certs.key_to_pem(key))


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def caller(
    authority: Authority,
    *,
    organization_id: str = ORGANIZATION,
    workspace_id: str = WORKSPACE,
    caller_id: str = CALLER,
    validity: Validity | None = None,
) -> KeyPair:
    """A caller's pair as control would issue it."""
    key = certs.make_ec_key()
    certificate = certs.issue_client(
        authority,
        key.public_key(),
        name=caller_id,
        uri=caller_uri(organization_id, workspace_id, caller_id),
        validity=validity or valid(timedelta(days=1)),
        serial=serial(),
    )
    return KeyPair.of(certificate, key)


def of_version(certificate: x509.Certificate, version: int) -> str:
    """The PEM of a certificate whose version field says `version` (0 is v1, 2 is v3); its signature is then of no worth."""
    der = certs.certificate_to_der(certificate)
    return ssl.DER_cert_to_PEM_cert(der.replace(b"\xa0\x03\x02\x01\x02", bytes((0xA0, 3, 2, 1, version)), 1))


def wrong_key_identifier() -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(
        key_identifier=b"\x13" * 20, authority_cert_issuer=None, authority_cert_serial_number=None
    )


def _through_intermediate(authority: Authority) -> KeyPair:
    middle = ca("intermediate", issuer=authority)
    return server(middle, chain=[middle.certificate])


def broken_servers() -> dict[str, Callable[[Authority], KeyPair]]:
    """What a refused proxy may present: the published rule's story, and how to make it under the tunnel's own CA."""
    return {
        "from another CA": lambda _: server(ca()),
        "from another CA of another name": lambda _: server(ca("someone-else")),
        "through an intermediate": _through_intermediate,
        "through an intermediate that is not sent": lambda authority: server(ca("intermediate", issuer=authority)),
        "self-signed": lambda _: _self_signed(),
        "expired": lambda authority: server(authority, validity=valid(EXPIRED[0], starts_in=EXPIRED[1])),
        "not yet valid": lambda authority: server(authority, validity=valid(NOT_YET_VALID[0], starts_in=NOT_YET_VALID[1])),
        "for another name": lambda authority: server(authority, "*.zz99zz99.tunnel.penstock.internal"),
        "without an AKI": lambda authority: server(authority, key_identifier=False),
        "with the wrong AKI": lambda authority: server(authority, key_identifier=wrong_key_identifier()),
        "with an EKU that lacks serverAuth": lambda authority: server(authority, usages=[ExtendedKeyUsageOID.CLIENT_AUTH]),
        "with a weak key": lambda authority: server(authority, key=certs.make_rsa_key(1024)),
    }


def lax_server(pair: KeyPair) -> TLSContext:
    """A server that presents what ours refuses to load: weak keys and weak hashes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # noqa: TID251 - a rule-breaker cannot be built by the house's rules
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["http/1.1"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pair.pem")
        file.write_text(f"{pair.certificate_pem}\n{pair.key_pem.reveal()}")
        context.load_cert_chain(file)
    return context


def sha1_authority() -> Authority:
    """An RSA CA, the only kind `sha1=True` servers can be signed by."""
    return ca(key=certs.make_rsa_key(2048))


def _self_signed() -> KeyPair:
    key = certs.make_ec_key()
    return server(Authority(ca("localhost", key=key).certificate, key), key=key)


def _builder(name: str, issuer: x509.Name, key: PrivateKey, validity: Validity) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    public_key = issuer.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key)


def _usage(*, sign: bool, cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        key_cert_sign=cert_sign,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: PrivateKey, *, sha1: bool) -> x509.Certificate:
    certificate = builder.sign(key, hashes.SHA256())
    if not sha1:
        return certificate
    # The library rightly makes no SHA-1 signatures: the algorithm's id is exchanged (both are 9 bytes) and signed again.
    assert isinstance(key, rsa.RSAPrivateKey)
    body = certificate.tbs_certificate_bytes.replace(_SHA256_WITH_RSA, _SHA1_WITH_RSA)
    signature = key.sign(body, padding.PKCS1v15(), hashes.SHA1())
    der = certs.certificate_to_der(certificate)
    der = der.replace(certificate.tbs_certificate_bytes, body).replace(certificate.signature, signature)
    return x509.load_der_x509_certificate(der.replace(_SHA256_WITH_RSA, _SHA1_WITH_RSA))
