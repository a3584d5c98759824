"""Nobody gives away more than they have: not by a rule, an issuer's keys, a service account, a key or a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support.idp import Idp
from tests.support.people import VERSION, admin, another, ok, refused
from tests.support.workloads import AUDIENCE, ORGANIZATION, workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio

RULES, ISSUERS, ACCOUNTS, USERS = (
    f"{ORGANIZATION}/{what}" for what in ("federation_rules", "federation_issuers", "service_accounts", "users")
)


@pytest.fixture
async def api(start_api: Callable[..., Any]) -> Api:
    started: Api = await start_api(public_url=AUDIENCE)
    return started


async def test_who_manages_federation_alone_becomes_no_admin_by_it(api: Api) -> None:
    one = await workload(api)
    person = await another(api, one.boss, manage_federation=True)
    own = {"subject_prefix": "system:mine"}
    rule = {**one.rule, "name": "mine", "match": own, "oauth_scope": "workspace:manage_tunnels"}
    rule = {name: rule[name] for name in ("name", "issuer_id", "match", "oauth_scope", "workspace_id")}
    rule["target"] = {"type": "service_account", "service_account_id": one.account["id"]}
    keys = {"type": "inline", "keys": [Idp().jwk]}
    for path, body in (
        (ACCOUNTS, {"name": "boss", "organization_role": "admin"}),
        (f"{ACCOUNTS}/{one.account['id']}", {"organization_role": "admin"}),
        (RULES, rule),
        (f"{RULES}/{one.rule['id']}", {"match": own}),  # it grants managing tunnels, which this person may not
        (f"{RULES}/{one.rule['id']}/workspaces", {"workspace_id": api.initial.workspace_id}),
        (f"{ISSUERS}/{one.issuer['id']}", {"jwks": keys}),  # whose keys they are says who may manage tunnels
    ):
        refused(await person.send("POST", path, json=body), 403)
    assert await person.post(RULES, rule | {"oauth_scope": "workspace:developer"})
    assert await person.post(f"{ISSUERS}/{one.issuer['id']}", {"name": "renamed"})
    assert (await person.post(f"{RULES}/{one.rule['id']}/archive"))["archived_at"]  # ending it gives nobody anything
    assert await person.post(f"{ISSUERS}/{one.issuer['id']}", {"jwks": keys})


async def test_a_workload_lets_nobody_in_and_gives_nobody_what_only_people_have(api: Api) -> None:
    one = await workload(api)
    boss = one.boss
    other = await another(api, boss, email="grants@example.com", manage_tunnels=True)
    plain = await another(api, boss)
    await boss.post(f"{ACCOUNTS}/{one.account['id']}", {"organization_role": "admin"})
    stronger = await boss.post(
        RULES,
        {
            "name": "admin",
            "issuer_id": one.issuer["id"],
            "match": {"subject_prefix": "system:ci"},
            "target": {"type": "service_account", "service_account_id": one.account["id"]},
            "oauth_scope": "org:admin",
            "workspace_id": api.initial.workspace_id,
        },
    )
    bearer = api.bearing(ok(await one.exchange(federation_rule_id=stronger["id"]))["access_token"], **VERSION)
    tunnels = {"anthropic-beta": "mcp-tunnels-2026-06-22"}
    refused(await api.http.get("/v1/tunnels", headers=bearer | tunnels), 403, "workspace:manage_tunnels")
    for method, path, body in (
        ("POST", "/penstock/v1/users", {"email": "new@example.com", "role": "admin"}),
        ("POST", f"/penstock/v1/users/{boss.id}/reset_password", None),
        ("POST", f"{USERS}/{plain.id}", {"role": "admin"}),
        ("POST", f"{USERS}/{plain.id}", {"manage_tunnels": True}),
        ("POST", f"{USERS}/{other.id}", {"manage_tunnels": False}),
        ("DELETE", f"{USERS}/{boss.id}", None),
        ("POST", "/penstock/v1/api_keys", {"name": "k", "oauth_scope": "workspace:manage_tunnels"}),
        ("POST", f"{ISSUERS}/{one.issuer['id']}", {"jwks": {"type": "inline", "keys": [Idp().jwk]}}),
        ("POST", f"{RULES}/{stronger['id']}/archive", None),
    ):
        refused(await api.http.request(method, path, json=body, headers=bearer), 403)
    assert ok(await api.http.post(f"{USERS}/{plain.id}", json={"role": "user"}, headers=bearer))["role"] == "user"
    assert ok(await api.http.post("/penstock/v1/api_keys", json={"name": "k"}, headers=bearer))["api_key"]


async def test_a_key_of_one_workspace_sees_no_other(api: Api) -> None:
    await (await admin(api)).post(f"{ORGANIZATION}/workspaces", {"name": "secret project"})
    for key in (api.initial.api_key, api.initial.tunnels_key):
        for path in (f"{ORGANIZATION}/workspaces", f"{ORGANIZATION}/workspaces/{api.initial.workspace_id}"):
            refused(await api.http.get(path, headers=api.bearing(key, **VERSION)), 403)
