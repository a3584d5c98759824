from __future__ import annotations

import contextlib
import ssl
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from tests.support import ca

from penstock.errors import ConfigError, IdentityError
from penstock.secret import Secret
from penstock.tls import certs, names, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def _authority() -> certs.Authority:
    return certs.make_ca("CA", certs.make_ec_key(), certs.Validity.lasting(NOW, timedelta(days=1)), serial=7)


def test_a_made_ca_obeys_every_rule_and_allows_no_intermediate() -> None:
    authority = _authority()
    checked = rules.check_ca_certificate(authority.certificate_pem, NOW)
    assert checked.certificate == authority.certificate
    assert checked.fingerprint == certs.fingerprint(authority.certificate)
    assert authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_a_ca_signed_by_another_names_it_as_issuer_and_key() -> None:
    root = _authority()
    below = certs.make_ca("below", certs.make_ec_key(), certs.Validity.lasting(NOW, timedelta(days=1)), serial=8, issuer=root)
    below.certificate.verify_directly_issued_by(root.certificate)
    rules.check_ca_certificate(below.certificate_pem, NOW)


def test_an_issued_server_certificate_obeys_every_rule() -> None:
    authority, key = _authority(), certs.make_ec_key()
    certificate = certs.issue_server(
        authority,
        key.public_key(),
        names=[ca.DOMAIN, f"*.{ca.DOMAIN}", "127.0.0.1", "::1", ca.DOMAIN],
        validity=certs.Validity.lasting(NOW, timedelta(hours=1)),
        serial=9,
    )
    anchor = rules.check_ca_certificate(authority.certificate_pem, NOW)
    rules.check_server_certificate(certs.certificate_to_der(certificate), [anchor], ca.HOST, NOW)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [ca.DOMAIN, f"*.{ca.DOMAIN}"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_certificates_are_dated_back_for_clocks_that_differ() -> None:
    validity = certs.Validity.lasting(NOW, timedelta(hours=1))
    assert validity.not_before == NOW - timedelta(minutes=5)
    assert validity.not_after == NOW + timedelta(hours=1)


def test_a_domain_longer_than_a_common_name_may_be_still_gets_its_certificate() -> None:
    name = f"{'a' * 60}.{'b' * 60}.example.com"
    certificate = certs.issue_server(
        _authority(), certs.make_ec_key().public_key(), names=[name], validity=ca.valid(), serial=1
    )
    assert name in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )


@given(st.binary(min_size=16, max_size=32))
def test_a_serial_number_is_positive_and_within_twenty_octets(entropy: bytes) -> None:
    serial = certs.serial_number(entropy)
    assert serial > 0
    assert len(serial.to_bytes(20, "big", signed=True)) == 20
    assert serial == certs.serial_number(entropy)


def test_a_serial_number_needs_its_entropy() -> None:
    with pytest.raises(ValueError, match="entropy"):
        certs.serial_number(b"x" * 15)


def test_an_authority_survives_being_written_and_read() -> None:
    authority = _authority()
    again = certs.Authority.load(authority.certificate_pem, authority.key_pem)
    assert again.certificate == authority.certificate
    assert again.key_pem == authority.key_pem
    assert "PRIVATE" not in repr(authority.key_pem)


def test_pem_and_der_give_the_same_certificate() -> None:
    certificate = _authority().certificate
    assert certs.load_certificate(certs.certificate_to_pem(certificate)) == certificate
    assert certs.load_certificate(certs.certificate_to_der(certificate)) == certificate


@given(st.binary(max_size=200))
def test_no_garbage_crashes_the_readers(data: bytes) -> None:
    with pytest.raises(IdentityError):
        certs.load_certificate(data)
    with pytest.raises(IdentityError):
        certs.load_csr(data.decode("latin-1"))


def test_a_key_of_another_kind_or_none_is_refused_without_showing_it() -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        certs.serialization.Encoding.PEM, certs.serialization.PrivateFormat.PKCS8, certs.serialization.NoEncryption()
    )
    for text in (key.decode(), "nothing", ""):
        with pytest.raises(ConfigError) as caught:
            certs.load_key(Secret(text))
        assert not text or text not in str(caught.value) + str(caught.value.detail)


def test_a_request_carries_its_key_and_nothing_else_is_believed() -> None:
    key = certs.make_ec_key()
    assert certs.load_csr(certs.make_csr(key, "anything")) == key.public_key()


def test_a_request_over_the_limit_is_refused_although_its_beginning_is_good() -> None:
    with pytest.raises(IdentityError):
        certs.load_csr(certs.make_csr(certs.make_ec_key(), "x") + " " * 20_000)


def _request_of_rsa(modulus: int, exponent: int) -> str:
    """A request whose key was never made: nobody needs the private half to cost others the work of looking at it."""

    def der(tag: int, body: bytes) -> bytes:
        if len(body) < 128:
            return bytes([tag, len(body)]) + body
        length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
        return bytes([tag, 0x80 | len(length)]) + length + body

    def number(value: int) -> bytes:
        return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    rsa_key, sha256 = (der(0x30, bytes.fromhex(f"06092a864886f70d0101{last}") + b"\x05\x00") for last in ("01", "0b"))
    key = der(0x30, rsa_key + der(3, b"\0" + der(0x30, number(modulus) + number(exponent))))
    told = der(0x30, number(0) + der(0x30, b"") + key + der(0xA0, b""))
    signature = der(3, b"\0" + (modulus - 2).to_bytes(modulus.bit_length() // 8, "big"))
    pem = ssl.DER_cert_to_PEM_cert(der(0x30, told + sha256 + signature))
    return pem.replace("CERTIFICATE-", "CERTIFICATE REQUEST-")


@pytest.mark.parametrize(
    ("bits", "exponent"),
    [(16_384, 65_537), (16_384, (1 << 64) - 1), (3072, (1 << 3071) - 1)],
    ids=["large", "large and slow", "slow"],
)
def test_a_key_whose_signature_costs_milliseconds_is_refused_before_it_is_looked_at(bits: int, exponent: int) -> None:
    request = _request_of_rsa((1 << (bits - 1)) | 1, exponent)

    def took() -> float:
        began = time.process_time()
        with pytest.raises(IdentityError, match="too large"):
            certs.load_csr(request)
        return time.process_time() - began

    assert min(took() for _ in range(3)) < 0.001


# --- damaged input ----------------------------------------------------------------------------------------------------


def _damaged(der: bytes) -> Iterator[bytes]:
    for place, byte in enumerate(der):
        for other in (0, 1, 3, 6, 0x30, 0x7F, 0xFF, byte ^ 1):
            yield der[:place] + bytes([other]) + der[place + 1 :]


# Of a serial number below 1 or a name of an odd length the library only warns.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_byte_of_a_certificate_is_changed_every_reader_answers_or_refuses() -> None:
    """The library parses some parts only when they are looked at, and what it then raises has no common parent."""
    authority, key = _authority(), certs.make_ec_key()
    anchor = rules.check_ca_certificate(authority.certificate_pem, NOW)
    leaf = certs.issue_client(
        authority,
        key.public_key(),
        name="x",
        uri=names.caller_uri(ca.ORGANIZATION, ca.WORKSPACE, ca.CALLER),
        validity=certs.Validity.lasting(NOW, timedelta(hours=1)),
        serial=9,
    )
    read = refused = 0
    for der in _damaged(certs.certificate_to_der(leaf)):
        certs.belong_together(ssl.DER_cert_to_PEM_cert(der), certs.key_to_pem(key))
        for reader in (
            lambda: rules.check_ca_certificate(ssl.DER_cert_to_PEM_cert(der), NOW),  # noqa: B023  called at once
            lambda: rules.check_server_certificate(der, [anchor], ca.HOST, NOW),  # noqa: B023
            lambda: rules.check_caller_certificate(der, NOW),  # noqa: B023
            lambda: names.edge_label(der),  # noqa: B023
            lambda: certs.is_issued_by(leaf, certs.load_bundle(ssl.DER_cert_to_PEM_cert(der))),  # noqa: B023
        ):
            try:
                reader()
                read += 1
            except IdentityError:
                refused += 1
    assert read
    assert refused


def test_whatever_byte_of_a_certificate_request_is_changed_it_is_read_or_refused() -> None:
    for der in _damaged(ssl.PEM_cert_to_DER_cert(_as_certificate(certs.make_csr(certs.make_ec_key(), "x")))):
        with contextlib.suppress(IdentityError):
            certs.load_csr(ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE-", "CERTIFICATE REQUEST-"))


def _as_certificate(csr: str) -> str:
    return csr.replace("CERTIFICATE REQUEST-", "CERTIFICATE-")
