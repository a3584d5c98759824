from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from tests.support import ca

from penstock.errors import IdentityError
from penstock.tls import certs
from penstock.tls.names import CallerIdentity, caller_identity, caller_uri, edge_server_name

GOOD = f"penstock://caller/{ca.ORGANIZATION}/{ca.WORKSPACE}/{ca.CALLER}"


def _leaf(*names: x509.GeneralName) -> bytes:
    key = certs.make_ec_key()
    builder = ca._builder("caller", ca._name("anyone"), key, ca.valid())
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return certs.certificate_to_der(builder.sign(key, hashes.SHA256()))


def test_the_identity_of_an_issued_certificate_is_what_was_put_in() -> None:
    pair = ca.caller(ca.ca())
    certificate = certs.load_certificate(pair.certificate_pem)
    assert caller_identity(certs.certificate_to_der(certificate)) == CallerIdentity(
        ca.ORGANIZATION, ca.WORKSPACE, ca.CALLER, f"{certificate.serial_number:x}"
    )


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.DNSName("caller.example.com"),),
        (x509.UniformResourceIdentifier("https://example.com/"),),
        (x509.UniformResourceIdentifier(GOOD), x509.UniformResourceIdentifier(GOOD.replace("clr_01", "clr_02"))),
        (x509.UniformResourceIdentifier(GOOD), x509.DNSName("also.example.com")),
        (x509.UniformResourceIdentifier(GOOD + "/more"),),
        (x509.UniformResourceIdentifier(GOOD.replace("penstock:", "PENSTOCK:")),),
        (x509.UniformResourceIdentifier(GOOD.replace(ca.ORGANIZATION, ca.ORGANIZATION.upper())),),
        (x509.UniformResourceIdentifier(GOOD.replace(ca.ORGANIZATION, "")),),
        (x509.UniformResourceIdentifier(GOOD.replace("wrkspc_", "tnl_")),),
        (x509.UniformResourceIdentifier(GOOD.replace("clr_", "clr%5F")),),
    ],
)
def test_a_certificate_that_names_no_caller_or_more_than_one_is_refused(names: tuple[x509.GeneralName, ...]) -> None:
    with pytest.raises(IdentityError, match="names no caller"):
        caller_identity(_leaf(*names))


@pytest.mark.parametrize("part", ["", "a/b", "wrkspc_a b", "wrkspc_"])
def test_a_uri_that_could_not_be_read_back_is_not_made(part: str) -> None:
    with pytest.raises(ValueError, match="not a caller"):
        caller_uri(ca.ORGANIZATION, part, ca.CALLER)


def test_an_edges_name_is_one_label() -> None:
    assert edge_server_name("edge-1") == "edge-1.edge.penstock.internal"
    for name in ("", "Edge", "a.b", "-a", "a-", "a" * 64, "ä", "a\n"):
        with pytest.raises(ValueError, match="one DNS label"):
            edge_server_name(name)
