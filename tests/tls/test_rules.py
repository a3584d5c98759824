from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.support import ca
from tests.support.handshake import shake

from penstock.errors import CertificateError
from penstock.tls import certs, contexts, rules
from penstock.tls.rules import Peer, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.tls.certs import Authority, KeyPair

NOW = datetime.now(UTC)


def _der(pair: KeyPair) -> bytes:
    return certs.certificate_to_der(certs.load_certificate(pair.certificate_pem.split("-----END CERTIFICATE-----")[0] + _END))


_END = "-----END CERTIFICATE-----\n"


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_rule_has_a_sentence_and_a_fix_and_an_id_that_fits_a_close_frame() -> None:
    for rule in Rule:
        assert rule.sentence
        assert rule.fix
        assert rule.value.isascii()
        assert len(rule.value) <= 123  # RFC 6455 5.5: 125 bytes with the code


# --- CA certificates --------------------------------------------------------------------------------------------------


def _two() -> bytes:
    return (ca.ca().certificate_pem + ca.ca().certificate_pem).encode()


def _with_key() -> bytes:
    authority = ca.ca()
    return (authority.certificate_pem + authority.key_pem.reveal()).encode()


BROKEN_CAS: dict[Rule, list[Callable[[], str | bytes]]] = {
    Rule.CA_PEM: [
        lambda: b"",
        lambda: b"garbage",
        lambda: certs.certificate_to_der(ca.ca().certificate),
        lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        lambda: "-----BEGIN CERTIFICATE-----\nnot base64 ä\n-----END CERTIFICATE-----\n",
    ],
    Rule.CA_WELL_FORMED: [
        lambda: ca.of_version(ca.ca().certificate, 1),
        lambda: ca.of_version(ca.ca().certificate, 3),
        lambda: ssl.DER_cert_to_PEM_cert(
            certs.certificate_to_der(ca.ca().certificate).replace(
                b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x7f"
            )
        ),  # a key of a kind that nobody knows
    ],
    Rule.CA_SIZE: [lambda: ca.ca().certificate_pem.ljust(8193)],
    Rule.CA_ONE_CERTIFICATE: [_two, lambda: certs.make_csr(certs.make_ec_key(), "x")],
    Rule.CA_NO_PRIVATE_KEY: [_with_key, ca.ca().key_pem.reveal, lambda: (" " * 9000).encode() + _with_key()],
    Rule.CA_IS_CA: [
        lambda: ca.ca(is_ca=False).certificate_pem,
        lambda: ca.ca(basic_constraints=False).certificate_pem,
    ],
    Rule.CA_CRITICAL: [lambda: ca.ca(critical=False).certificate_pem],
    Rule.CA_KEY_IDENTIFIER: [lambda: ca.ca(key_identifier=False).certificate_pem],
    Rule.CA_KEY_CERT_SIGN: [lambda: ca.ca(key_cert_sign=False).certificate_pem],
    Rule.CA_NOT_EXPIRED: [lambda: ca.ca(validity=ca.valid(ca.EXPIRED[0], starts_in=ca.EXPIRED[1])).certificate_pem],
    Rule.CA_VALID_YET: [lambda: ca.ca(validity=ca.valid(ca.NOT_YET_VALID[0], starts_in=ca.NOT_YET_VALID[1])).certificate_pem],
    Rule.CA_STRONG_KEY: [
        lambda: ca.ca(key=certs.make_rsa_key(1024)).certificate_pem,
        lambda: ca.ca(key=ec.generate_private_key(ec.SECP192R1())).certificate_pem,
        lambda: ca.ca(key=ec.generate_private_key(ec.SECP224R1())).certificate_pem,
        lambda: ca.ca(key=ec.generate_private_key(ec.SECP256K1())).certificate_pem,
    ],
    Rule.CA_STRONG_HASH: [lambda: ca.ca(sha1=True).certificate_pem],
}


@pytest.mark.parametrize(("rule", "make"), [(rule, make) for rule, makers in BROKEN_CAS.items() for make in makers])
def test_a_ca_that_breaks_one_rule_is_refused_by_that_rule(rule: Rule, make: Callable[[], str | bytes]) -> None:
    with pytest.raises(CertificateError) as caught:
        rules.check_ca_certificate(make(), NOW)
    assert caught.value.rule == rule.value
    assert caught.value.hint == rule.fix


def test_every_ca_rule_is_broken_by_a_certificate_above() -> None:
    of_callers = {Rule.CA_PIN}  # what a caller remembers, and no certificate says
    assert set(BROKEN_CAS) == {rule for rule in Rule if rule.value.startswith("ca-")} - of_callers


@pytest.mark.parametrize(
    "make",
    [
        ca.ca,
        lambda: ca.ca(path_length=0),
        lambda: ca.ca("issuing", issuer=ca.ca("root")),
        lambda: ca.ca(key=certs.make_rsa_key(2048)),
        lambda: ca.ca(key=ec.generate_private_key(ec.SECP384R1())),
        lambda: ca.ca(key=ec.generate_private_key(ec.SECP521R1())),
    ],
    ids=["p-256", "pathlen 0", "not self-signed", "rsa-2048", "p-384", "p-521"],
)
def test_a_ca_that_obeys_the_rules_is_accepted_and_stored_without_what_is_around_it(make: Callable[[], Authority]) -> None:
    authority = make()
    checked = rules.check_ca_certificate(f"Certificate:\n  Data: …\n{authority.certificate_pem}\n", NOW)
    assert checked.pem == authority.certificate_pem
    assert checked.expires_at == authority.certificate.not_valid_after_utc


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_no_garbage_passes_as_a_ca_or_crashes(data: str | bytes) -> None:
    with pytest.raises(CertificateError):
        rules.check_ca_certificate(data, NOW)


@pytest.mark.filterwarnings("ignore::UserWarning")  # a serial number below 1
@given(st.data())
def test_a_damaged_ca_is_refused_or_is_a_certificate_still(data: st.DataObject) -> None:
    der = bytearray(certs.certificate_to_der(_CA.certificate))
    der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    pem = ssl.DER_cert_to_PEM_cert(bytes(der))
    with contextlib.suppress(CertificateError):
        rules.check_ca_certificate(pem, NOW)


_CA = ca.ca()


def test_anchors_outside_their_validity_are_left_out_and_none_left_is_an_error() -> None:
    good, old = ca.ca(), ca.ca(validity=ca.valid(ca.EXPIRED[0], starts_in=ca.EXPIRED[1]))
    assert [anchor.pem for anchor in rules.usable_anchors([old.certificate_pem, good.certificate_pem], NOW)] == [
        good.certificate_pem
    ]
    with pytest.raises(CertificateError) as caught:
        rules.usable_anchors([old.certificate_pem], NOW)
    assert caught.value.rule == Rule.CA_NOT_EXPIRED.value
    with pytest.raises(CertificateError):
        rules.usable_anchors([], NOW)


# --- server certificates, in a real handshake -------------------------------------------------------------------------

SERVER_RULES = {
    "from another CA": Rule.SERVER_REGISTERED_CA,
    "from another CA of another name": Rule.SERVER_REGISTERED_CA,
    "through an intermediate": Rule.SERVER_SIGNED_DIRECTLY,
    "through an intermediate that is not sent": Rule.SERVER_REGISTERED_CA,
    "self-signed": Rule.SERVER_REGISTERED_CA,
    "expired": Rule.SERVER_NOT_EXPIRED,
    "not yet valid": Rule.SERVER_VALID_YET,
    "for another name": Rule.SERVER_NAME,
    "without an AKI": Rule.SERVER_HAS_AKI,
    "with the wrong AKI": Rule.SERVER_AKI_MATCHES,
    "with an EKU that lacks serverAuth": Rule.SERVER_AUTH,
    "with a weak key": Rule.SERVER_STRONG_KEY,
}


def _refused(authority: Authority, pair: KeyPair, host: str = ca.HOST) -> tuple[CertificateError, bool]:
    """How a caller refuses this server, and whether OpenSSL did it (and thus sent an alert)."""
    anchors = rules.usable_anchors([authority.certificate_pem], NOW)
    result = shake(contexts.caller_inner([anchor.pem for anchor in anchors], None), ca.lax_server(pair), host)
    if result.client_error is None:
        leaf = result.client.getpeercert(binary_form=True)
        assert leaf is not None
        with pytest.raises(CertificateError) as caught:
            rules.check_server_certificate(leaf, anchors, host, NOW)
        return caught.value, False
    assert isinstance(result.client_error, ssl.SSLCertVerificationError)
    assert result.server_error is not None, "the alert must reach the server"
    look = shake(contexts.caller_inspection(), ca.lax_server(pair), host)
    leaf = look.client.getpeercert(binary_form=True)
    assert leaf is not None
    first, sure = rules.explain_verification(result.client_error), rules.diagnose(result.client_error, leaf, anchors, host, NOW)
    # The first word is the same rule, or admits in its sentence what it cannot tell apart.
    assert first.rule == sure.rule or "AuthorityKeyIdentifier" in first.public
    return sure, True


@pytest.mark.parametrize("story", ca.broken_servers())
def test_a_server_that_breaks_one_rule_is_refused_by_that_rule(story: str) -> None:
    authority = ca.ca()
    error, by_openssl = _refused(authority, ca.broken_servers()[story](authority))
    assert error.rule == SERVER_RULES[story].value
    assert by_openssl == (story != "through an intermediate")


def test_an_intermediate_below_a_ca_that_allows_none_is_named_as_such() -> None:
    authority = ca.ca(path_length=0)
    error, by_openssl = _refused(authority, ca.broken_servers()["through an intermediate"](authority))
    assert (error.rule, by_openssl) == (
        Rule.SERVER_REGISTERED_CA.value,
        True,
    ) or error.rule == Rule.SERVER_SIGNED_DIRECTLY.value


def test_a_server_signed_with_sha1_is_refused_by_that_rule() -> None:
    authority = ca.sha1_authority()
    error, _ = _refused(authority, ca.server(authority, sha1=True))
    assert error.rule == Rule.SERVER_STRONG_HASH.value


def test_a_forged_issuer_and_key_identifier_do_not_help_another_ca() -> None:
    authority, other = ca.ca(), ca.ca()
    forged = ca.server(other, key_identifier=ca._authority_key(authority.certificate))
    error, _ = _refused(authority, forged)
    assert error.rule == Rule.SERVER_REGISTERED_CA.value


@pytest.mark.parametrize("key", [certs.make_ec_key, lambda: certs.make_rsa_key(2048)], ids=["p-256", "rsa-2048"])
@pytest.mark.parametrize(
    "make",
    [ca.ca, lambda: ca.ca(path_length=0), lambda: ca.ca("issuing", issuer=ca.ca("root"))],
    ids=["self", "pathlen", "issued"],
)
def test_a_server_that_obeys_the_rules_is_accepted(make: Callable[[], Authority], key: Callable[[], certs.PrivateKey]) -> None:
    authority = make()
    anchors = rules.usable_anchors([ca.ca().certificate_pem, authority.certificate_pem], NOW)
    server = contexts.proxy_inner(ca.server(authority, key=key()))
    result = shake(contexts.caller_inner([anchor.pem for anchor in anchors], None), server, ca.HOST)
    assert (result.client_error, result.server_error) == (None, None)
    rules.check_server_certificate(result.client.getpeercert(binary_form=True) or b"", anchors, ca.HOST, NOW)


def test_a_server_without_eku_is_accepted() -> None:
    authority = ca.ca()
    anchors = rules.usable_anchors([authority.certificate_pem], NOW)
    pair = ca.server(authority, usages=None)
    result = shake(contexts.caller_inner([authority.certificate_pem], None), contexts.proxy_inner(pair), ca.HOST)
    assert result.client_error is None
    rules.check_server_certificate(_der(pair), anchors, ca.HOST, NOW)


def test_time_passes_for_an_accepted_certificate_too() -> None:
    authority = ca.ca(validity=ca.valid(timedelta(days=999)))
    anchors = rules.usable_anchors([authority.certificate_pem], NOW)
    leaf = _der(ca.server(authority))
    rules.check_server_certificate(leaf, anchors, ca.HOST, NOW)
    with pytest.raises(CertificateError) as caught:
        rules.check_server_certificate(leaf, anchors, ca.HOST, NOW + timedelta(days=400))
    assert caught.value.rule == Rule.SERVER_NOT_EXPIRED.value


@given(st.binary(max_size=200))
def test_no_garbage_passes_as_a_server(leaf: bytes) -> None:
    with pytest.raises(CertificateError) as caught:
        rules.check_server_certificate(leaf, [], ca.HOST, NOW)
    assert caught.value.rule == Rule.SERVER_WELL_FORMED.value


@pytest.mark.parametrize(
    ("pattern", "host", "covered"),
    [
        ("*.t.example", "echo.t.example", True),
        ("*.T.Example", "ECHO.t.example", True),
        ("echo.t.example", "echo.t.example", True),
        ("*.t.example", "t.example", False),
        ("*.t.example", "a.b.t.example", False),
        ("*.t.example", ".t.example", False),
        ("e*.t.example", "echo.t.example", False),
        ("*", "localhost", False),
        ("*.", "x.", False),
        ("*.*.example", "a.*.example", False),
        ("", "", False),
    ],
)
def test_a_wildcard_covers_exactly_one_label(pattern: str, host: str, covered: bool) -> None:
    assert rules.covers(pattern, host) is covered


# --- callers and edges ------------------------------------------------------------------------------------------------


def test_a_callers_certificate_is_checked_again_on_every_connection() -> None:
    leaf = _der(ca.caller(ca.ca()))
    assert rules.check_caller_certificate(leaf, NOW).workspace_id == ca.WORKSPACE
    for now in (NOW - timedelta(days=2), NOW + timedelta(days=2)):
        with pytest.raises(CertificateError) as caught:
            rules.check_caller_certificate(leaf, now)
        assert caught.value.rule == Rule.CALLER_IN_TIME.value


@pytest.mark.parametrize("leaf", [b"", b"garbage", _der(ca.server(_CA))])
def test_what_names_no_caller_is_refused_by_that_rule(leaf: bytes) -> None:
    with pytest.raises(CertificateError) as caught:
        rules.check_caller_certificate(leaf, NOW)
    assert caught.value.rule == Rule.CALLER_IDENTITY.value


@pytest.mark.parametrize(
    ("pair", "rule"),
    [
        (lambda authority: ca.server(ca.ca(), "edge-1.edge.penstock.internal"), Rule.EDGE_TRUSTED),
        (lambda authority: ca.server(authority, "edge-2.edge.penstock.internal"), Rule.EDGE_NAME),
        (
            lambda authority: ca.server(
                authority, "edge-1.edge.penstock.internal", validity=ca.valid(ca.EXPIRED[0], starts_in=ca.EXPIRED[1])
            ),
            Rule.EDGE_IN_TIME,
        ),
    ],
)
def test_a_refused_edge_is_named_as_the_edge(pair: Callable[[Authority], KeyPair], rule: Rule) -> None:
    edge_ca, caller_ca = ca.ca(), ca.ca()
    server = contexts.edge_callers(pair(edge_ca), [caller_ca.certificate_pem])
    client = contexts.caller_outer(edge_ca.certificate_pem, ca.caller(caller_ca))
    error = shake(client, server, "edge-1.edge.penstock.internal").client_error
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert rules.explain_verification(error, Peer.EDGE).rule == rule.value
