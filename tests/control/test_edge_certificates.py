from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from penstock.tls import certs

if TYPE_CHECKING:
    import httpx2
    from tests.support.control import Api

pytestmark = pytest.mark.anyio


async def renew(api: Api, credential: str, csr_pem: str) -> httpx2.Response:
    return await api.http.post("/penstock/v1/edge/certificate", json={"csr_pem": csr_pem}, headers=api.bearing(credential))


async def test_an_edge_gets_its_next_certificate_under_the_names_it_enrolled_with(api: Api) -> None:
    enrolment = (await api.enrol("edge-1")).json()
    key = certs.make_ec_key()
    answer = (await renew(api, enrolment["credential"], certs.make_csr(key, "whatever it likes"))).json()
    first, second = (certs.load_certificate(one["certificate_pem"]) for one in (enrolment, answer))
    assert second.public_key() == key.public_key()
    assert second.serial_number != first.serial_number
    kind = x509.SubjectAlternativeName
    assert second.extensions.get_extension_for_class(kind) == first.extensions.get_extension_for_class(kind)
    second.verify_directly_issued_by(certs.load_certificate(answer["edge_ca_pem"]))


async def test_nobody_else_gets_one(api: Api) -> None:
    csr = certs.make_csr(certs.make_ec_key(), "edge")
    replaced = (await api.enrol("edge-1")).json()["credential"]
    await api.enrol("edge-1")
    for secret in (replaced, api.initial.enrolment_token.reveal(), api.initial.api_key.reveal(), "nothing"):
        assert (await renew(api, secret, csr)).status_code == 401


async def test_a_request_that_is_none_is_refused_by_its_field(api: Api) -> None:
    credential = (await api.enrol("edge-1")).json()["credential"]
    response = await renew(api, credential, "nothing")
    assert response.status_code == 400
    assert "csr_pem" in response.json()["error"]["message"]
