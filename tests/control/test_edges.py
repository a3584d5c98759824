from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from penstock.control.service import presence
from penstock.control.service.bootstrap import create_api_key, create_enrolment_token, revoke_api_key
from penstock.schema.edges import SNAPSHOT_CONTEXT, Snapshot, fresh_message
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio


async def test_an_edges_certificate_carries_its_own_name_the_stock_agents_names_and_its_addresses(api: Api) -> None:
    enrolment = (await api.enrol("edge-1")).json()
    certificate = certs.load_certificate(enrolment["certificate_pem"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "edge-1.edge.penstock.internal",
        "h2.cftunnel.com",
        "probe.cftunnel.com",
        "edge.example.com",
    ]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    certificate.verify_directly_issued_by(certs.load_certificate(enrolment["edge_ca_pem"]))
    assert "BEGIN CERTIFICATE" in enrolment["caller_ca_pem"]
    assert len(base64.b64decode(enrolment["feed_key"])) == 32


async def test_the_name_of_an_edge_that_lives_is_not_given_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_LEASE", timedelta(seconds=0.8))
    first = (await api.enrol("edge-1")).json()
    bearing = api.bearing(first["credential"])
    report = {"incarnation": str(uuid4()), "links": []}
    assert (await api.http.post("/penstock/v1/edge/presence", json=report, headers=bearing)).status_code == 200
    refused = await api.enrol("edge-1")
    assert refused.status_code == 409
    assert "another edge is called 'edge-1' and is alive" in refused.json()["error"]["message"]
    assert (await api.snapshot(first["credential"])).status_code == 200

    async with asyncio.timeout(10):  # its lease runs out, for it says nothing more
        while (taken := await api.enrol("edge-1")).status_code == 409:
            await asyncio.sleep(0.05)
    assert (await api.snapshot(first["credential"])).status_code == 401
    replaced = [record for record in await api.audit_records() if record["type"] == "edge_replaced"]
    assert [(r["edge_id"], r["replaced_by"]) for r in replaced] == [(first["edge_id"], taken.json()["edge_id"])]


async def test_enrolling_again_under_a_dead_edges_name_replaces_it_and_ends_its_credential(api: Api) -> None:
    first = (await api.enrol("edge-1")).json()
    second = (await api.enrol("edge-1", agent_address="moved.example.com:7844")).json()
    other = (await api.enrol("edge-2")).json()
    assert (await api.snapshot(first["credential"])).status_code == 401
    assert (await api.snapshot(second["credential"])).status_code == 200
    assert (await api.snapshot(other["credential"])).status_code == 200
    assert len({first["edge_id"], second["edge_id"], other["edge_id"]}) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Edge"),
        ("name", "a.b"),
        ("name", ""),
        ("name", "-x"),
        ("caller_address", "nowhere"),
        ("caller_address", ":8443"),
        ("caller_address", "0.0.0.0:8443"),
        ("caller_address", "host:0"),
        ("agent_address", "*.example.com:7844"),
        ("agent_address", "host name:7844"),
        ("csr_pem", "nothing"),
    ],
)
async def test_a_malformed_enrolment_is_refused_by_its_field(api: Api, field: str, value: str) -> None:
    response = await api.enrol(**{field: value})
    assert response.status_code == 400
    assert field in response.json()["error"]["message"]


async def test_an_enrolment_token_may_be_used_again_unless_set_otherwise(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(single_use_enrolment=True)
    responses = await asyncio.gather(*(api.enrol(f"edge-{n}") for n in range(5)))
    assert sorted(response.status_code for response in responses) == [200, 401, 401, 401, 401]
    fresh = await create_enrolment_token(api.config)
    assert (await api.enrol("edge-9", fresh)).status_code == 200


async def test_a_snapshot_is_signed_by_the_key_given_at_enrolment(api: Api) -> None:
    enrolment = (await api.enrol()).json()
    await api.tunnel()
    response = await api.snapshot(enrolment["credential"])
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(enrolment["feed_key"]))
    signature = base64.b64decode(response.headers["penstock-signature"])
    key.verify(signature, SNAPSHOT_CONTEXT + response.content)
    for other in (response.content, SNAPSHOT_CONTEXT + response.content.replace(b"tnl_", b"tnl-")):
        with pytest.raises(InvalidSignature):
            key.verify(signature, other)


async def test_that_nothing_is_newer_is_signed_for_who_asked_now(api: Api) -> None:
    enrolment = (await api.enrol()).json()
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(enrolment["feed_key"]))
    headers = {"authorization": f"Bearer {enrolment['credential']}"}
    nonce = "0123456789abcdef" * 2
    after = -1
    for status in (200, 204):
        asked = {"after": after, "nonce": nonce}
        response = await api.http.get("/penstock/v1/edge/snapshot", params=asked, headers=headers)
        assert response.status_code == status
        after = response.json()["version"] if status == 200 else after
        fresh = base64.b64decode(response.headers["penstock-fresh"])
        key.verify(fresh, fresh_message(after, nonce))
        for other in (fresh_message(after + 1, nonce), fresh_message(after, "f" * 32)):
            with pytest.raises(InvalidSignature):
                key.verify(fresh, other)


async def test_a_change_that_was_taken_over_by_half_is_missing_from_no_later_answer(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = (await api.enrol()).json()["credential"]
    held = (await api.snapshot(credential)).json()
    tunnel = await api.tunnel()
    with monkeypatch.context() as broken:
        broken.setattr("penstock.control.service.feed_state.FeedState.advance", lambda *_: 1 / 0)
        assert (await api.snapshot(credential, after=held["version"], delta=held["mark"])).status_code == 500
    response = await api.snapshot(credential, after=held["version"], delta=held["mark"])
    assert tunnel["id"] in [record["id"] for record in response.json()["tunnels"]]


async def test_marks_that_an_edge_makes_up_cost_control_no_second_signature_of_the_whole(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = (await api.enrol()).json()["credential"]
    whole = (await api.snapshot(credential)).content
    monkeypatch.setattr("penstock.control.service.feed._signed", lambda *_: 1 / 0)
    for number in range(66):
        assert (await api.snapshot(credential, delta=f"{number:032x}")).content == whole


async def test_a_snapshot_tells_tunnels_with_verifiers_and_counts_of_certificates(api: Api) -> None:
    credential = (await api.enrol()).json()["credential"]
    tunnel, gone = await api.tunnel(), await api.tunnel()
    await api.register(tunnel["id"])
    await api.http.post(f"/v1/tunnels/{gone['id']}/archive")
    snapshot = Snapshot.model_validate_json((await api.snapshot(credential)).content)
    (record,) = snapshot.tunnels
    assert (record.id, record.domain, record.certificates) == (tunnel["id"], tunnel["domain"], 1)
    assert record.account == api.initial.organization_id.replace("-", "")
    assert record.workspace_id == api.initial.workspace_id
    (verifier,) = record.verifiers
    assert len(bytes.fromhex(verifier)) == 32


async def test_the_version_grows_with_each_change_and_with_nothing_else(api: Api) -> None:
    credential = (await api.enrol()).json()["credential"]
    versions = [await _version(api, credential)]
    tunnel = await api.tunnel()
    versions.append(await _version(api, credential))
    await api.register(tunnel["id"])
    versions.append(await _version(api, credential))
    csr = certs.make_csr(certs.make_ec_key(), "x")
    await api.http.post("/penstock/v1/callers/certificates", json={"csr_pem": csr})
    versions.append(await _version(api, credential))
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")
    versions.append(await _version(api, credential))
    assert versions == sorted(set(versions))
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/certificates", json={"ca_certificate_pem": "x"})
    await api.http.get("/v1/tunnels")
    assert await _version(api, credential) == versions[-1]


async def test_a_waiting_edge_is_woken_at_once_by_a_change(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(change_poll_interval=30)  # only the wake-up can be quick
    credential = (await api.enrol()).json()["credential"]
    version = await _version(api, credential)
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(api.snapshot(credential, after=version, wait=20))
        await _until_waiting(api)
        tunnel = await api.tunnel()
        response = await waiting
    assert [record["id"] for record in response.json()["tunnels"]] == [tunnel["id"]]


async def test_a_change_made_by_another_process_is_seen_within_the_poll_interval(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(change_poll_interval=0.05)
    credential = (await api.enrol()).json()["credential"]
    key = await create_api_key(api.config, api.initial.workspace_id)
    version = await _version(api, credential)
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(api.snapshot(credential, after=version, wait=20))
        await _until_waiting(api)
        await revoke_api_key(api.config, key.id)  # opens the store by itself, as another process does
        response = await waiting
    assert response.status_code == 200
    assert response.json()["version"] > version


async def test_an_edge_that_knows_the_newest_gets_204_when_its_wait_is_over(api: Api) -> None:
    credential = (await api.enrol()).json()["credential"]
    version = await _version(api, credential)
    for after in (version, version + 1000):
        response = await api.snapshot(credential, after=after, wait=0)
        assert (response.status_code, response.content) == (204, b"")


async def test_a_stop_answers_waiting_edges_at_once(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(shutdown_timeout=30, change_poll_interval=30)
    credential = (await api.enrol()).json()["credential"]
    version = await _version(api, credential)
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        waiting = group.create_task(api.snapshot(credential, after=version, wait=25))
        await _until_waiting(api)
        await api.control.stop()
        assert (await waiting).status_code == 204


async def _version(api: Api, credential: str) -> int:
    version: int = (await api.snapshot(credential)).json()["version"]
    return version


async def _until_waiting(api: Api) -> None:
    """Until the long poll is inside: it is the one request that runs beside none of ours."""
    while api.control._metrics.running._value.get() < 1:
        await asyncio.sleep(0)
