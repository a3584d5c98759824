from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest
from tests.support import ca
from tests.support.store import database

from penstock.tls import certs

if TYPE_CHECKING:
    from tests.support.control import Api

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio


async def test_a_registered_ca_has_the_published_shape_and_its_pem_is_not_returned(api: Api) -> None:
    tunnel = await api.tunnel()
    authority = ca.ca()
    response = await api.register(tunnel["id"], authority.certificate_pem)
    certificate = response.json()
    assert response.status_code == 200
    assert set(certificate) == {"id", "archived_at", "created_at", "expires_at", "fingerprint", "tunnel_id", "type"}
    assert certificate["id"].startswith("tcrt_")
    assert certificate["tunnel_id"] == tunnel["id"]
    assert certificate["type"] == "tunnel_certificate"
    assert certificate["fingerprint"] == hashlib.sha256(certs.certificate_to_der(authority.certificate)).hexdigest()
    assert certificate["expires_at"] == authority.certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    listed = (await api.http.get(f"/v1/tunnels/{tunnel['id']}/certificates")).json()
    assert listed == {"data": [certificate], "next_page": None}


async def test_a_refused_ca_names_the_rule_and_the_fix_and_leaves_nothing(api: Api) -> None:
    tunnel = await api.tunnel()
    response = await api.register(tunnel["id"], ca.ca(critical=False).certificate_pem)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "ca-critical" in message
    assert "basicConstraints=critical,CA:TRUE" in message
    assert (await api.http.get(f"/v1/tunnels/{tunnel['id']}/certificates")).json()["data"] == []


async def test_a_ca_of_a_version_that_x509_does_not_have_is_refused_by_a_rule(api: Api) -> None:
    tunnel = await api.tunnel()
    response = await api.register(tunnel["id"], ca.of_version(ca.ca().certificate, 1))
    assert response.status_code == 400
    assert "ca-well-formed" in response.json()["error"]["message"]


async def test_a_body_of_8193_characters_is_refused(api: Api) -> None:
    tunnel = await api.tunnel()
    assert (await api.register(tunnel["id"], ca.ca().certificate_pem.ljust(8193))).status_code == 400
    assert (await api.register(tunnel["id"], ca.ca().certificate_pem.ljust(8192))).status_code == 200


async def test_a_private_key_is_refused_and_not_repeated(api: Api) -> None:
    tunnel = await api.tunnel()
    authority = ca.ca()
    response = await api.register(tunnel["id"], authority.certificate_pem + authority.key_pem.reveal())
    assert response.status_code == 400
    assert "ca-no-private-key" in response.json()["error"]["message"]
    assert authority.key_pem.reveal().splitlines()[1] not in response.text


async def test_the_same_certificate_twice_is_a_conflict(api: Api) -> None:
    tunnel = await api.tunnel()
    pem = ca.ca().certificate_pem
    assert (await api.register(tunnel["id"], pem)).status_code == 200
    assert (await api.register(tunnel["id"], pem)).status_code == 409


async def test_parallel_registrations_fill_exactly_two_slots(api: Api) -> None:
    tunnel = await api.tunnel()
    responses = await asyncio.gather(*(api.register(tunnel["id"]) for _ in range(12)))
    assert sorted(response.status_code for response in responses) == [200] * 2 + [400] * 10
    refused = next(response for response in responses if response.status_code == 400)
    assert "maximum of 2" in refused.json()["error"]["message"]


async def test_a_ca_that_is_not_self_signed_may_be_registered(api: Api) -> None:
    tunnel = await api.tunnel()
    assert (await api.register(tunnel["id"], ca.ca("issuing", issuer=ca.ca("root")).certificate_pem)).status_code == 200
