from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.support.store import database

from penstock.control.auth.actors import Machine
from penstock.control.service import audit
from penstock.control.service.bootstrap import create_api_key, open_core, revoke_api_key
from penstock.schema.audit import ACTIVITIES

if TYPE_CHECKING:
    from tests.support.control import Api

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio


async def test_what_is_done_and_what_is_revealed_is_written_down_in_order(api: Api) -> None:
    tunnel = await api.tunnel(display_name="echo")
    certificate = (await api.register(tunnel["id"])).json()
    revealed = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")).json()
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")
    await api.enrol()
    key = await create_api_key(api.config, api.initial.workspace_id, "second")
    await revoke_api_key(api.config, key.id)
    written = await api.audit_records()
    assert [record["type"] for record in written] == [
        "user_created",
        "organization_created",
        "workspace_created",
        "user_created",
        "api_key_created",
        "tunnel_token_minted",
        "enrolment_token_created",
        "tunnel_created",
        "tunnel_certificate_added",
        "tunnel_token_revealed",
        "tunnel_archived",
        "edge_enrolled",
        "api_key_created",
        "api_key_revoked",
    ]
    assert [record["position"] for record in written] == list(range(1, 15))
    added, reveal = written[8], written[9]
    assert (added["tunnel_id"], added["certificate_id"]) == (tunnel["id"], certificate["id"])
    assert added["certificate_fingerprint"] == certificate["fingerprint"]
    assert reveal["tunnel_token_id"] == revealed["id"]
    for record in written:
        assert set(ACTIVITIES[record["type"]]) <= set(record)
        assert record["id"].startswith("activity_")


async def test_a_record_says_who_did_it_and_from_where(api: Api) -> None:
    response = await api.http.post("/v1/tunnels", json={}, headers={"user-agent": "curl/8"})
    record = (await api.audit_records())[-1]
    assert record["actor"]["type"] == "api_key"
    assert record["actor"]["ip_address"] == "127.0.0.1"
    assert record["actor"]["user_agent"] == "curl/8"
    assert record["request_id"] == response.headers["request-id"]
    assert record["organization_id"] == record["organization_uuid"] == api.initial.organization_id


async def test_no_record_holds_a_secret(api: Api) -> None:
    tunnel = await api.tunnel()
    token = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")).json()["tunnel_token"]
    text = json.dumps(await api.audit_records())
    for secret in (token, api.initial.api_key.reveal(), api.initial.enrolment_token.reveal()):
        assert secret not in text


async def test_a_refused_request_leaves_no_record(api: Api) -> None:
    before = await api.audit_records()
    await api.http.post("/v1/tunnels/tnl_unknown/reveal_token")
    await api.http.post("/v1/tunnels", json={"display_name": ""})
    assert await api.audit_records() == before


async def test_archiving_again_is_written_down_once(api: Api) -> None:
    tunnel = await api.tunnel()
    for _ in range(3):
        await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")
    assert [record["type"] for record in await api.audit_records()].count("tunnel_archived") == 1


async def test_an_activity_with_other_fields_than_its_own_is_a_defect(api: Api) -> None:
    async with open_core(api.config) as core, core.database.write() as connection:
        for fields in ({}, {"tunnel_id": "tnl_1", "more": 1}):
            with pytest.raises(ValueError, match="tunnel_created"):
                await audit.record(core, connection, Machine(), "tunnel_created", fields)
