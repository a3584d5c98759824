from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.store import database

from penstock.protocol.token import parse_token
from penstock.schema.edges import Snapshot, TunnelRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio


async def _activities(api: Api, kind: str) -> list[dict[str, Any]]:
    return [record for record in await api.audit_records() if record["type"] == kind]


async def test_a_rotated_token_is_another_one_with_another_id_and_is_what_is_revealed_from_then_on(api: Api) -> None:
    tunnel = await api.tunnel()
    url = f"/v1/tunnels/{tunnel['id']}"
    before = (await api.http.post(f"{url}/reveal_token")).json()
    after = (await api.http.post(f"{url}/rotate_token", json={"reason": "a laptop was lost"})).json()
    assert set(after) == {"id", "tunnel_token", "type"}
    assert after["id"] != before["id"]
    old, new = parse_token(before["tunnel_token"]), parse_token(after["tunnel_token"])
    assert (old.account, old.tunnel_id, old.edges, old.cas) == (new.account, new.tunnel_id, new.edges, new.cas)
    assert old.secret != new.secret
    assert (await api.http.post(f"{url}/reveal_token")).json() == after


@pytest.mark.parametrize("content", [b"", b"{}", b'{"reason": null}'])
async def test_a_reason_is_not_required(api: Api, content: bytes) -> None:
    tunnel = await api.tunnel()
    headers = {"content-type": "application/json"}
    response = await api.http.post(f"/v1/tunnels/{tunnel['id']}/rotate_token", content=content, headers=headers)
    assert response.status_code == 200, response.text


async def test_the_token_of_an_archived_tunnel_is_not_rotated(api: Api) -> None:
    tunnel = await api.tunnel()
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")
    response = await api.http.post(f"/v1/tunnels/{tunnel['id']}/rotate_token")
    assert (response.status_code, response.json()["error"]["type"]) == (409, "conflict_error")


async def test_two_rotations_at_once_are_two_tokens_and_the_last_one_is_in_force(api: Api) -> None:
    tunnel = await api.tunnel()
    url = f"/v1/tunnels/{tunnel['id']}"
    answers = await asyncio.gather(*(api.http.post(f"{url}/rotate_token") for _ in range(8)))
    made = {answer.json()["id"] for answer in answers}
    assert len(made) == 8
    assert (await api.http.post(f"{url}/reveal_token")).json()["id"] in made


async def test_edges_learn_the_new_verifier_and_forget_the_old_one(api: Api) -> None:
    tunnel = await api.tunnel()
    enrolment = (await api.enrol()).json()
    verifiers: list[list[str]] = []
    for _ in range(2):
        (record,) = (await api.snapshot(enrolment["credential"])).json()["tunnels"]
        verifiers.append(record["verifiers"])
        await api.http.post(f"/v1/tunnels/{tunnel['id']}/rotate_token")
    assert verifiers[0] != verifiers[1]
    assert len(verifiers[1]) == 1


async def test_a_certificate_is_looked_up_and_archived_and_its_slot_is_free_again(api: Api) -> None:
    tunnel = await api.tunnel()
    url = f"/v1/tunnels/{tunnel['id']}/certificates"
    first, second = [(await api.register(tunnel["id"])).json() for _ in range(2)]
    assert (await api.register(tunnel["id"])).status_code == 400
    assert (await api.http.get(f"{url}/{first['id']}")).json() == first
    archived = (await api.http.post(f"{url}/{first['id']}/archive")).json()
    assert archived == first | {"archived_at": archived["archived_at"]}
    assert archived["archived_at"] is not None
    assert (await api.http.post(f"{url}/{first['id']}/archive")).json() == archived  # idempotent
    assert (await api.http.get(url)).json()["data"] == [second]
    assert (await api.http.get(url, params={"include_archived": True})).json()["data"] == [second, archived]
    assert (await api.register(tunnel["id"])).status_code == 200


async def test_a_certificate_of_another_tunnel_is_not_found(api: Api) -> None:
    one, other = await api.tunnel(), await api.tunnel()
    certificate = (await api.register(one["id"])).json()
    for url in (f"/v1/tunnels/{other['id']}/certificates/{certificate['id']}", f"/v1/tunnels/{one['id']}/certificates/tcrt_no"):
        assert (await api.http.get(url)).status_code == 404
        assert (await api.http.post(f"{url}/archive")).status_code == 404


async def test_every_rotation_and_revocation_is_in_the_audit_log(api: Api) -> None:
    tunnel = await api.tunnel()
    certificate = (await api.register(tunnel["id"])).json()
    token = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/rotate_token", json={"reason": "why not"})).json()
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/certificates/{certificate['id']}/archive")
    [rotated] = await _activities(api, "tunnel_token_rotated")
    assert (rotated["tunnel_id"], rotated["tunnel_token_id"], rotated["reason"]) == (tunnel["id"], token["id"], "why not")
    [revoked] = await _activities(api, "tunnel_certificate_revoked")
    assert (revoked["certificate_id"], revoked["certificate_fingerprint"]) == (certificate["id"], certificate["fingerprint"])


async def test_with_an_overlap_both_values_register_for_a_while_and_a_second_rotation_ends_the_first_one(
    start_api: Callable[..., Any],
) -> None:
    api: Api = await start_api(rotation_overlap=3600)
    credential = (await api.enrol()).json()["credential"]
    tunnel = await api.tunnel()

    async def record() -> TunnelRecord:
        (only,) = Snapshot.model_validate_json((await api.snapshot(credential)).content).tunnels
        return only

    first = await record()
    assert first.retiring == ()
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/rotate_token")
    second = await record()
    assert [retiring.verifier for retiring in second.retiring] == list(first.verifiers)
    assert timedelta(minutes=59) < second.retiring[0].until - datetime.now(UTC) <= timedelta(hours=1)
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/rotate_token")
    third = await record()
    assert [retiring.verifier for retiring in third.retiring] == list(second.verifiers)
    assert len({*first.verifiers, *second.verifiers, *third.verifiers}) == 3
