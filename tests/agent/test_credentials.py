from __future__ import annotations

import pytest
from tests.support import ca

from penstock.agent.credentials import EdgeTrust
from penstock.errors import ConfigError, IdentityError
from penstock.tls import certs


def der(authority: certs.Authority) -> bytes:
    return certs.certificate_to_der(authority.certificate)


def test_a_ca_is_trusted_when_a_trusted_one_signed_it_and_vouches_for_the_next() -> None:
    first = ca.ca("one")
    second = ca.ca("two", issuer=first)
    third = ca.ca("three", issuer=second)
    trust = EdgeTrust([der(first)])
    assert trust.learn([der(third)]) == (0, 1)  # nobody trusted signed it yet
    assert trust.learn([der(first), der(second), der(third)]) == (2, 0)
    assert trust.learn([der(second), der(third)]) == (0, 0)
    trust.context()


def test_a_stranger_a_leaf_and_garbage_are_not_trusted() -> None:
    first = ca.ca("one")
    leaf = certs.load_certificate(ca.server(first, "edge.example.com").certificate_pem)
    same_name = ca.ca("one")
    trust = EdgeTrust([first.certificate_pem])
    assert trust.learn([der(ca.ca("stranger")), der(same_name), certs.certificate_to_der(leaf), b"garbage"]) == (0, 4)


def test_nobody_fills_the_memory_with_cas() -> None:
    first = ca.ca("one")
    trust = EdgeTrust([der(first)])
    assert trust.learn([der(ca.ca(f"ca {n}", issuer=first)) for n in range(20)]) == (7, 13)


def test_a_bundle_with_text_around_its_certificates_is_read_whole() -> None:
    one, two = ca.ca("one"), ca.ca("two")
    trust = EdgeTrust([f"# the old one\n{one.certificate_pem}\n# the new one\n{two.certificate_pem}"])
    assert trust.learn([der(ca.ca("three", issuer=two))]) == (1, 0)


@pytest.mark.parametrize(("anchors", "error"), [([], ConfigError), (["nothing"], IdentityError), ([b"nothing"], IdentityError)])
def test_no_ca_at_all_is_an_error_at_the_start(anchors: list[str | bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        EdgeTrust(anchors)
