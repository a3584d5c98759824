from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.support.people import Person, admin, another, ok, operator, refused, sign_in

from penstock.control.service.bootstrap import create_api_key, revoke_api_key
from penstock.tls import certs, rules

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2
    from tests.support.control import Api

pytestmark = pytest.mark.anyio


async def _certificate(api: Api, csr: str, **headers: str) -> httpx2.Response:
    return await api.http.post("/penstock/v1/callers/certificates", json={"csr_pem": csr}, headers=headers)


async def test_a_request_becomes_a_client_certificate_of_a_day_for_the_keys_identity(api: Api) -> None:
    key = certs.make_ec_key()
    answer = (await _certificate(api, certs.make_csr(key, "anything"))).json()
    certificate = certs.load_certificate(answer["certificate_pem"])
    identity = rules.check_caller_certificate(certs.certificate_to_der(certificate), datetime.now(UTC))
    assert identity.organization_id == api.initial.organization_id == answer["organization_id"]
    assert identity.workspace_id == api.initial.workspace_id == answer["workspace_id"]
    assert identity.caller_id == answer["caller_id"]
    assert certificate.public_key() == key.public_key()
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert datetime.fromisoformat(answer["expires_at"]) == certificate.not_valid_after_utc
    life = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < life <= timedelta(hours=24)
    ca_pem = (await api.http.get("/penstock/v1/callers/ca")).json()["caller_ca_pem"]
    certificate.verify_directly_issued_by(certs.load_certificate(ca_pem))


async def test_the_names_in_a_request_are_not_believed(api: Api) -> None:
    key = certs.make_ec_key()
    forged = x509.UniformResourceIdentifier("penstock://caller/00000000-0000-0000-0000-000000000000/wrkspc_other/clr_other")
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([forged]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    answer = (await _certificate(api, csr.public_bytes(certs.serialization.Encoding.PEM).decode())).json()
    certificate = certs.load_certificate(answer["certificate_pem"])
    identity = rules.check_caller_certificate(certs.certificate_to_der(certificate), datetime.now(UTC))
    assert identity.workspace_id == api.initial.workspace_id
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def _unproven() -> str:
    """A request whose signature is another key's."""
    good, other = certs.make_csr(certs.make_ec_key(), "x"), certs.make_csr(certs.make_ec_key(), "x")
    first = x509.load_pem_x509_csr(good.encode())
    der = first.public_bytes(certs.serialization.Encoding.DER)
    signature = x509.load_pem_x509_csr(other.encode()).signature
    # Equal lengths are not sure with ECDSA: the bytes are changed in place instead.
    changed = der[: -len(first.signature)] + first.signature[:-1] + bytes([first.signature[-1] ^ 1])
    assert signature != first.signature
    return x509.load_der_x509_csr(changed).public_bytes(certs.serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("csr", "says"),
    [
        ("", "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "cannot be read"),
        ("x" * 60_000, "cannot be read"),
        (_unproven(), "not signed by its own key"),
        (certs.make_csr(certs.make_rsa_key(1024), "x"), "too weak"),
        (certs.make_csr(ec.generate_private_key(ec.SECP224R1()), "x"), "too weak"),
    ],
    ids=["empty", "garbage", "huge", "unproven", "rsa-1024", "p-224"],
)
async def test_a_request_that_proves_or_holds_nothing_good_is_refused(api: Api, csr: str, says: str) -> None:
    response = await _certificate(api, csr)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


async def test_a_certificate_is_in_the_snapshot_until_its_key_is_revoked(api: Api) -> None:
    credential = (await api.enrol()).json()["credential"]
    key = await create_api_key(api.config, api.initial.workspace_id, "other")
    answer = (await _certificate(api, certs.make_csr(certs.make_ec_key(), "x"), **api.bearing(key.secret))).json()
    certificate = certs.load_certificate(answer["certificate_pem"])
    before = (await api.snapshot(credential)).json()
    assert before["callers"] == [
        {
            "serial": certs.serial_hex(certificate),
            "caller_id": key.caller_id,
            "organization_id": api.initial.organization_id,
            "workspace_id": api.initial.workspace_id,
            "expires_at": answer["expires_at"],
        }
    ]
    await revoke_api_key(api.config, key.id)
    after = (await api.snapshot(credential, after=before["version"], wait=5)).json()
    assert after["callers"] == []
    refused = await _certificate(api, certs.make_csr(certs.make_ec_key(), "x"), **api.bearing(key.secret))
    assert refused.status_code == 401


async def test_a_key_holds_a_bounded_number_of_certificates(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits={"certificates_per_caller": 2})
    csr = certs.make_csr(certs.make_ec_key(), "x")
    statuses = [(await _certificate(api, csr)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_expired_certificates_leave_the_snapshot_and_make_room(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits={"certificates_per_caller": 1}, caller_certificate_lifetime=0)
    credential = (await api.enrol()).json()["credential"]
    csr = certs.make_csr(certs.make_ec_key(), "x")
    assert [(await _certificate(api, csr)).status_code for _ in range(3)] == [200, 200, 200]
    assert (await api.snapshot(credential)).json()["callers"] == []


async def test_admins_see_live_certificates_and_revoke_one_for_good(api: Api) -> None:
    boss = await admin(api)
    serials: list[str] = []
    for _ in range(3):
        answer = (await _certificate(api, certs.make_csr(certs.make_ec_key(), "x"))).json()
        serials.append(certs.serial_hex(certs.load_certificate(answer["certificate_pem"])))
    edge = (await api.enrol()).json()["credential"]
    first = await boss.get("/penstock/v1/callers/certificates", params={"limit": 2})
    rest = await boss.get("/penstock/v1/callers/certificates", params={"limit": 2, "page": first["next_page"]})
    assert {one["id"] for one in first["data"] + rest["data"]} == set(serials)
    assert rest["next_page"] is None
    assert first["data"][0]["holder_id"].startswith("apikey_")

    path = f"/penstock/v1/callers/certificates/{serials[0]}"
    refused(await api.http.delete(path), 403, "org:admin")
    revoked = await boss.send("DELETE", path)
    assert revoked.json() == {"id": serials[0], "type": "caller_certificate_revoked"}
    refused(await boss.send("DELETE", path), 404)
    known = {caller["serial"] for caller in (await api.snapshot(edge)).json()["callers"]}
    assert known == set(serials[1:]), "edges refuse it as soon as they hear"
    assert (await api.audit_records())[-1]["type"] == "caller_certificate_revoked"


async def test_a_certificate_of_another_organization_is_neither_seen_nor_revoked(api: Api) -> None:
    answer = (await _certificate(api, certs.make_csr(certs.make_ec_key(), "x"))).json()
    serial = certs.serial_hex(certs.load_certificate(answer["certificate_pem"]))
    made = await (await operator(api)).post("/penstock/v1/organizations", {"name": "b", "admin_email": "b@example.com"})
    other = Person(api, ok(await sign_in(api, "b@example.com", made["admin_password"])))
    assert (await other.get("/penstock/v1/callers/certificates"))["data"] == []
    refused(await other.send("DELETE", f"/penstock/v1/callers/certificates/{serial}"), 404)


async def test_a_person_who_may_call_no_more_has_no_certificates_any_more(api: Api) -> None:
    boss = await admin(api)
    person = await another(api, boss)
    edge = (await api.enrol()).json()["credential"]
    ok(
        await person.send(
            "POST", "/penstock/v1/callers/certificates", json={"csr_pem": certs.make_csr(certs.make_ec_key(), "x")}
        )
    )
    before = (await api.snapshot(edge)).json()
    assert len(before["callers"]) == 1
    await boss.post(f"/v1/organizations/users/{person.id}", {"role": "user"})
    after = (await api.snapshot(edge, after=before["version"], wait=5)).json()
    assert after["callers"] == []
