"""Organizations, workspaces and keys: made, listed, ended; and what their end reaches."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.people import Person, admin, another, ok, operator, refused, sign_in

from penstock.tls import certs

if TYPE_CHECKING:
    from tests.support.control import Api

pytestmark = pytest.mark.anyio

BETA = {"anthropic-beta": "mcp-tunnels-2026-06-22", "anthropic-version": "2023-06-01"}


async def certificate_for(api: Api, credential: str) -> dict[str, Any]:
    """A caller certificate, checked to be in the feed."""
    body = {"csr_pem": certs.make_csr(certs.make_ec_key(), "caller")}
    made = ok(await api.http.post("/penstock/v1/callers/certificates", json=body, headers=api.bearing(credential)))
    assert made["caller_id"] in await callers(api)
    return made


async def callers(api: Api) -> set[str]:
    """Whom an edge that asks now would let in."""
    credential = ok(await api.enrol())["credential"]
    return {caller["caller_id"] for caller in (await api.snapshot(credential)).json()["callers"]}


async def test_an_operator_makes_an_organization_that_works_at_once(api: Api) -> None:
    chief = await operator(api)
    made = await chief.post("/penstock/v1/organizations", {"name": "Other", "admin_email": "Boss@Other.example"})
    assert made["admin_email"] == "boss@other.example"
    boss = Person(api, ok(await sign_in(api, made["admin_email"], made["admin_password"])))
    key = await boss.post("/penstock/v1/api_keys", {"name": "agents"})
    tunnel = await boss.post("/v1/tunnels", {}, headers=BETA)
    assert tunnel["domain"].endswith(".tunnel.penstock.internal")
    assert (await certificate_for(api, key["api_key"]))["organization_id"] == made["id"]
    names = [organization["name"] for organization in (await chief.get("/penstock/v1/organizations"))["data"]]
    assert names == ["Other", "default"]


async def test_answers_about_the_organization_name_no_workspace(api: Api) -> None:
    boss = await admin(api)
    answers = [await boss.send("GET", path) for path in ("/v1/organizations/users", "/penstock/v1/links")]
    named = ["anthropic-workspace-id" in answer.headers for answer in answers]
    assert named == [False, True]
    assert answers[0].headers["anthropic-organization-id"] == api.initial.organization_id


async def test_an_operator_reads_nothing_inside_an_organization_and_an_admin_makes_none(api: Api) -> None:
    chief, boss = await operator(api), await admin(api)
    refused(await chief.send("GET", "/v1/tunnels", headers=BETA), 403)
    refused(await chief.send("GET", "/v1/organizations/users"), 403)
    body = {"name": "mine", "admin_email": "a@b.example"}
    refused(await boss.send("POST", "/penstock/v1/organizations", json=body), 403, "operator")
    for path in ("/penstock/v1/edges", "/penstock/v1/enrolment_tokens", "/penstock/v1/organizations"):
        refused(await boss.send("GET", path), 403)


async def test_a_suspended_organization_stops_and_comes_back_as_it_was(api: Api) -> None:
    chief, boss = await operator(api), await admin(api)
    tunnel = await api.tunnel()
    caller = await certificate_for(api, api.initial.api_key.reveal())
    path = f"/penstock/v1/organizations/{api.initial.organization_id}"
    suspended = await chief.post(f"{path}/suspend")
    assert suspended["suspended_at"] is not None
    assert (await chief.post(f"{path}/suspend")) == suspended
    refused(await api.http.get("/v1/tunnels"), 403, "suspended")
    refused(await boss.send("GET", "/penstock/v1/me"), 403, "suspended")
    credential = ok(await api.enrol())["credential"]
    seen = (await api.snapshot(credential)).json()
    assert (seen["tunnels"], seen["callers"]) == ([], [])
    await chief.post(f"{path}/resume")
    seen = (await api.snapshot(credential)).json()
    assert [one["id"] for one in seen["tunnels"]] == [tunnel["id"]]
    assert [one["caller_id"] for one in seen["callers"]] == [caller["caller_id"]]


async def test_a_deleted_organization_leaves_no_secret_and_frees_no_domain(api: Api) -> None:
    chief = await operator(api)
    tunnel = await api.tunnel()
    gone = await chief.send("DELETE", f"/penstock/v1/organizations/{api.initial.organization_id}")
    assert gone.json()["type"] == "organization_deleted"
    refused(await api.http.get("/v1/tunnels"), 401)
    refused(await sign_in(api, api.initial.admin_email, api.initial.admin_password.reveal()), 401)
    with closing(sqlite3.connect(api.config.database_file)) as connection:
        assert connection.execute("SELECT domain, archived_at IS NULL FROM tunnels").fetchall() == [(tunnel["domain"], 0)]
        roots = [row[0] for row in connection.execute("SELECT id FROM roots")]
        assert sorted(roots) == ["edge-ca", "feed-key"]
    refused(await chief.send("GET", f"/penstock/v1/organizations/{api.initial.organization_id}"), 404)


async def test_archiving_a_workspace_ends_its_keys_callers_and_tunnels(api: Api) -> None:
    boss = await admin(api)
    made = await boss.post("/v1/organizations/workspaces", {"name": "second"})
    where = {"anthropic-workspace-id": made["id"]}
    key = await boss.post("/penstock/v1/api_keys", {"name": "k"}, headers=where)
    await boss.post("/v1/tunnels", {}, headers=BETA | where)
    caller = await certificate_for(api, key["api_key"])
    archived = await boss.post(f"/v1/organizations/workspaces/{made['id']}/archive")
    assert archived["archived_at"] is not None
    assert await boss.post(f"/v1/organizations/workspaces/{made['id']}/archive") == archived
    assert caller["caller_id"] not in await callers(api)
    refused(await api.http.get("/penstock/v1/callers/ca", headers=api.bearing(key["api_key"])), 401)
    refused(await boss.send("GET", "/v1/tunnels", headers=BETA | where), 400)
    listed = (await boss.get("/v1/organizations/workspaces"))["data"]
    assert [workspace["id"] for workspace in listed] == [api.initial.workspace_id]
    default = f"/v1/organizations/workspaces/{api.initial.workspace_id}/archive"
    refused(await boss.send("POST", default), 400, "default")


async def test_a_key_is_shown_once_disabled_enabled_and_archived_for_good(api: Api) -> None:
    boss = await admin(api)
    made = await boss.post("/penstock/v1/api_keys", {"name": "agents"})
    key, path = made["api_key"], f"/v1/organizations/api_keys/{made['id']}"
    assert key.startswith("pst-key-")
    shown = await boss.get(path)
    assert "api_key" not in shown
    assert shown["partial_key_hint"].endswith(key[-4:])
    assert shown["created_by"] == {"id": boss.id, "type": "user"}
    caller = await certificate_for(api, key)
    for status, works in (("inactive", False), ("active", True), ("archived", False)):
        assert (await boss.post(path, {"status": status}))["status"] == status
        assert (await api.http.get("/penstock/v1/me", headers=api.bearing(key))).is_success is works
        assert (caller["caller_id"] in await callers(api)) is works
    refused(await boss.send("POST", path, json={"status": "active"}), 400)


async def test_who_may_not_manage_tunnels_makes_no_key_that_does(api: Api) -> None:
    boss = await admin(api)
    person = await another(api, boss)
    body = {"name": "k", "oauth_scope": "workspace:manage_tunnels"}
    refused(await person.send("POST", "/penstock/v1/api_keys", json=body), 403)
    assert (await person.post("/penstock/v1/api_keys", {"name": "k"}))["api_key"].startswith("pst-key-")
    assert (await boss.post("/penstock/v1/api_keys", body))["api_key"].startswith("pst-tunnels-")
    for key in (api.initial.api_key, api.initial.tunnels_key):
        refused(await api.http.post("/penstock/v1/api_keys", json={"name": "k"}, headers=api.bearing(key)), 403)


async def test_keys_are_listed_by_status_and_workspace(api: Api) -> None:
    boss = await admin(api)
    made = await boss.post("/penstock/v1/api_keys", {"name": "k"})
    await boss.post(f"/v1/organizations/api_keys/{made['id']}", {"status": "archived"})
    for query, count in (({}, 3), ({"status": "active"}, 2), ({"status": "archived"}, 1), ({"workspace_id": "wrkspc_x"}, 0)):
        assert len((await boss.get("/v1/organizations/api_keys", params=query))["data"]) == count


async def test_a_removed_persons_certificate_leaves_the_feed(api: Api) -> None:
    boss = await admin(api)
    person = await another(api, boss)
    caller = await certificate_for(api, person.token)
    await boss.send("DELETE", f"/v1/organizations/users/{person.id}")
    assert caller["caller_id"] not in await callers(api)


async def test_a_revoked_edge_learns_nothing_more_and_nobody_is_sent_to_it(api: Api) -> None:
    chief = await operator(api)
    credential = ok(await api.enrol("edge-9"))["credential"]
    tunnel = await api.tunnel()
    (edge,) = (await chief.get("/penstock/v1/edges"))["data"]
    assert edge["name"] == "edge-9"
    assert (await chief.send("DELETE", f"/penstock/v1/edges/{edge['id']}")).is_success
    refused(await api.snapshot(credential), 401)
    found = await api.http.get("/penstock/v1/tunnels/resolve", params={"host": tunnel["domain"]})
    assert found.json()["edges"] == []
    refused(await chief.send("DELETE", f"/penstock/v1/edges/{edge['id']}"), 404)


async def test_an_enrolment_token_is_made_listed_and_ended(api: Api) -> None:
    chief = await operator(api)
    made = await chief.post("/penstock/v1/enrolment_tokens")
    bearer = api.bearing(made["enrolment_token"])
    body = {
        "name": "edge-2",
        "caller_address": "127.0.0.1:8443",
        "agent_address": "127.0.0.1:7844",
        "csr_pem": certs.make_csr(certs.make_ec_key(), "edge"),
    }
    assert (await api.http.post("/penstock/v1/edges/enrol", json=body, headers=bearer)).is_success
    assert len((await chief.get("/penstock/v1/enrolment_tokens"))["data"]) == 2
    assert (await chief.send("DELETE", f"/penstock/v1/enrolment_tokens/{made['id']}")).is_success
    refused(await api.http.post("/penstock/v1/edges/enrol", json=body, headers=bearer), 401)
