"""The token exchange: every rule of an assertion, with one that breaks only it; and what comes of a good one."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.idp import GRANT, Idp
from tests.support.people import ok, refused
from tests.support.workloads import AUDIENCE, workload

from penstock.control.federation import assertion
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio

BETA = {"anthropic-version": "2023-06-01", "anthropic-beta": "mcp-tunnels-2026-06-22, oauth-2025-04-20"}


@pytest.fixture
async def api(start_api: Callable[..., Any]) -> Api:
    started: Api = await start_api(public_url=AUDIENCE)
    return started


async def test_a_good_assertion_becomes_a_bearer_that_manages_tunnels_and_nothing_else(api: Api) -> None:
    one = await workload(api)
    answer = ok(await one.exchange())
    assert answer["token_type"] == "Bearer"
    assert answer["scope"] == "workspace:manage_tunnels"
    assert 1190 <= answer["expires_in"] <= 1200  # twice what is left of ten minutes
    bearer = api.bearing(answer["access_token"])
    created = await api.http.post("/v1/tunnels", json={}, headers=bearer | BETA)
    assert created.headers["anthropic-workspace-id"] == api.initial.workspace_id
    assert ok(created)["domain"]
    refused(await api.http.get("/v1/organizations/users", headers=bearer | BETA), 403, "org:admin")
    body = {"csr_pem": certs.make_csr(certs.make_ec_key(), "caller")}
    refused(await api.http.post("/penstock/v1/callers/certificates", json=body, headers=bearer), 403)
    (granted,) = (await one.boss.get("/penstock/v1/authentications"))["data"]
    assert (granted["outcome"], granted["reason"], granted["subject"]) == ("granted", None, "system:ci")


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"])
def test_every_published_algorithm_verifies(algorithm: str) -> None:
    curve = {"ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}.get(algorithm, ec.SECP256R1())
    idp = Idp(algorithm=algorithm, key=ec.generate_private_key(curve)) if algorithm[0] == "E" else Idp.rsa(2048, algorithm)
    verified = assertion.verify(
        assertion.read(idp.sign()), {**idp.jwk, "alg": algorithm}, now=datetime.now(UTC), lifetime_most=3600
    )
    assert verified.subject == "system:ci"


def _unsigned(idp: Idp) -> str:
    return jwt.encode(jwt.decode(idp.sign(), options={"verify_signature": False}), None, "none", {"kid": "k1"})


def _hmac(idp: Idp) -> str:
    # The classic: what is public about the key as an HMAC secret.
    secret = (idp.jwk["x"] + idp.jwk["y"]).encode()
    return jwt.encode(jwt.decode(idp.sign(), options={"verify_signature": False}), secret, "HS256", {"kid": "k1"})


def _forged(idp: Idp) -> str:
    head, _, signature = idp.sign().split(".")
    claims = base64.urlsafe_b64encode(json.dumps({"iss": idp.issuer, "sub": "system:root"}).encode()).rstrip(b"=").decode()
    return f"{head}.{claims}.{signature}"


def _twice(idp: Idp) -> str:
    head, _, signature = idp.sign().split(".")
    text = f'{{"iss":"{idp.issuer}","sub":"a","sub":"b"}}'
    return f"{head}.{base64.urlsafe_b64encode(text.encode()).rstrip(b'=').decode()}.{signature}"


BROKEN: dict[str, tuple[str, Callable[[Idp], str]]] = {
    "none": ("algorithm_not_allowed", _unsigned),
    "hmac": ("algorithm_not_allowed", _hmac),
    "no kid": ("kid_missing", lambda idp: idp.sign(header={"kid": ""})),
    "crit": ("critical_header", lambda idp: idp.sign(header={"crit": ["b64"], "b64": True})),
    "another issuer": ("issuer_mismatch", lambda idp: idp.sign(iss="https://idp.example.com/")),
    "no issuer": ("issuer_mismatch", lambda idp: idp.sign(iss=None)),
    "another key": ("signature_invalid", lambda idp: Idp().sign()),
    "unknown kid": ("key_not_found", lambda idp: Idp("k2").sign()),
    "another family": ("key_unusable", lambda idp: Idp.rsa().sign()),
    "changed claims": ("signature_invalid", _forged),
    "a claim twice": ("assertion_malformed", _twice),
    "no subject": ("subject_missing", lambda idp: idp.sign(sub=None)),
    "empty subject": ("subject_missing", lambda idp: idp.sign(sub="")),
    "no iat": ("issued_at_missing", lambda idp: idp.sign(iat=None)),
    "no exp": ("expiry_missing", lambda idp: idp.sign(exp=None)),
    "iat ahead": ("issued_in_future", lambda idp: idp.sign(iat=time.time() + 45)),
    "expired": ("expired", lambda idp: idp.sign(iat=time.time() - 600, exp=time.time() - 45)),
    "nbf ahead": ("not_yet_valid", lambda idp: idp.sign(nbf=time.time() + 45)),
    "too long": ("lifetime_too_long", lambda idp: idp.sign(exp=time.time() + 3700)),
    "a date of text": ("assertion_malformed", lambda idp: idp.sign(nbf="soon")),
    "another audience": ("audience_mismatch", lambda idp: idp.sign(aud="api.anthropic.com")),
    "no audience": ("audience_mismatch", lambda idp: idp.sign(aud=None)),
    "another subject": ("match_subject_prefix", lambda idp: idp.sign(sub="user:ci")),
    "jti no text": ("jti_malformed", lambda idp: idp.sign(jti=5)),
    "too large": ("assertion_too_large", lambda idp: idp.sign(more="x" * (16 << 10))),
    "garbage": ("assertion_malformed", lambda idp: "a.b.c"),
    "no token": ("assertion_malformed", lambda idp: ""),
    "half a surrogate pair": ("assertion_malformed", lambda idp: idp.sign(sub="system:\ud800")),
    "a NUL": ("assertion_malformed", lambda idp: idp.sign(iss=f"{idp.issuer}\0")),
    "deep": ("assertion_malformed", lambda idp: f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.e30.e30"),
}


async def test_an_assertion_that_breaks_one_rule_is_refused_and_the_history_says_which(api: Api) -> None:
    one = await workload(api)
    for name, (reason, make) in BROKEN.items():
        try:
            await one.denied(reason, make(one.idp))
        except AssertionError as exc:
            raise AssertionError(f"{name}: {exc}") from exc
    assert ok(await one.exchange())


async def test_half_a_minute_of_leeway_holds_for_every_time(api: Api) -> None:
    one = await workload(api)
    now = time.time()
    for claims in ({"iat": now + 20}, {"nbf": now + 20}, {"iat": now - 600, "exp": now - 20}):
        answer = ok(await one.exchange(one.idp.sign(**claims)))
        assert answer["expires_in"] >= 60


LIFETIMES = ((600, 3600, 1200), (3000, 3600, 3600), (600, 60, 60), (10, 3600, 60), (-20, 3600, 60))


async def test_a_token_lives_as_long_as_the_published_formula_says(api: Api) -> None:
    one = await workload(api)
    for left, lifetime, expected in LIFETIMES:
        await one.change_rule(token_lifetime_seconds=lifetime)
        answer = ok(await one.exchange(one.idp.sign(iat=time.time() - 500, exp=time.time() + left)))
        assert expected - 5 <= answer["expires_in"] <= expected


async def test_a_jti_is_good_once_also_for_many_at_a_time(api: Api) -> None:
    one = await workload(api)
    used = one.idp.sign(jti="only")
    answers = await asyncio.gather(*(one.exchange(used) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    await one.denied("jti_reused", used)
    assert ok(await one.exchange(one.idp.sign(jti="other")))
    # Without a jti an assertion may be used again, and an issuer may do without the check.
    again = one.idp.sign()
    assert ok(await one.exchange(again))
    assert ok(await one.exchange(again))
    await one.boss.post(f"/v1/organizations/federation_issuers/{one.issuer['id']}", {"check_jti": False})
    assert ok(await one.exchange(used))


async def test_a_refused_assertion_does_not_use_up_its_jti(api: Api) -> None:
    one = await workload(api)
    kept = one.idp.sign(jti="kept")
    await one.denied("service_account_mismatch", kept, service_account_id="svac_other")
    assert ok(await one.exchange(kept, service_account_id=one.account["id"]))


MALFORMED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"grant_type": "authorization_code"}, "grant_type"),
    ({"grant_type": None}, "grant_type"),
    ({"assertion": None}, "assertion"),
    ({"federation_rule_id": None}, "federation_rule_id"),
    ({"federation_rule_id": "rule_1"}, "federation_rule_id"),
    ({"organization_id": None}, "organization_id"),
    ({"workspace_id": "main"}, "workspace_id"),
)


async def test_a_malformed_request_is_400_names_the_field_and_leaves_no_history(api: Api) -> None:
    one = await workload(api)
    whole = {
        "grant_type": GRANT,
        "assertion": one.idp.sign(),
        "federation_rule_id": one.rule["id"],
        "organization_id": api.initial.organization_id,
    }
    for changes, field in MALFORMED:
        body = {name: value for name, value in (whole | changes).items() if value is not None}
        refused(await api.http.post("/v1/oauth/token", json=body), 400, field)
    assert (await one.boss.get("/penstock/v1/authentications"))["data"] == []


async def test_an_unknown_an_archived_and_a_foreign_rule_are_one_and_the_same(api: Api) -> None:
    one = await workload(api)
    unknown = await one.exchange(federation_rule_id="fdrl_unknown")
    foreign = await one.exchange(organization_id="00000000-0000-4000-8000-000000000000")
    malformed = await one.exchange(organization_id="x")
    await one.boss.post(f"/v1/organizations/federation_rules/{one.rule['id']}/archive")
    archived = await one.exchange()
    for response in (unknown, foreign, malformed, archived):
        refused(response, 401, "Authentication failed")
    assert (await one.boss.get("/penstock/v1/authentications"))["data"] == []


async def test_a_token_outlives_its_rule_but_not_its_service_account(api: Api) -> None:
    one = await workload(api)
    bearer = api.bearing(ok(await one.exchange())["access_token"])
    await one.boss.post(f"/v1/organizations/federation_rules/{one.rule['id']}/archive")
    assert (await api.http.get("/penstock/v1/me", headers=bearer)).is_success
    await one.boss.post(f"/v1/organizations/service_accounts/{one.account['id']}/archive")
    refused(await api.http.get("/penstock/v1/me", headers=bearer), 401)


async def test_a_token_acts_in_one_workspace_the_one_asked_for_or_the_only_one(api: Api) -> None:
    one = await workload(api)
    second = await one.boss.post("/v1/organizations/workspaces", {"name": "second"})
    await one.denied("workspace_not_enabled", workspace_id=second["id"])
    path = f"/v1/organizations/federation_rules/{one.rule['id']}/workspaces"
    await one.boss.post(path, {"workspace_id": second["id"]})
    await one.denied("workspace_id_required")
    await one.denied("service_account_not_member", workspace_id=second["id"])
    member = {"workspace_id": second["id"], "workspace_role": "workspace_developer"}
    await one.boss.post(f"/v1/organizations/service_accounts/{one.account['id']}/workspaces", member)
    for asked, given in ((second["id"], second["id"]), ("default", api.initial.workspace_id)):
        bearer = api.bearing(ok(await one.exchange(workspace_id=asked))["access_token"])
        assert ok(await api.http.get("/penstock/v1/me", headers=bearer))["workspace_id"] == given
        elsewhere = {"anthropic-workspace-id": "wrkspc_other"}
        refused(await api.http.get("/penstock/v1/me", headers=bearer | elsewhere), 400)
    await one.change_rule(applies_to_all_workspaces=True)
    bearer = api.bearing(ok(await one.exchange())["access_token"])
    assert ok(await api.http.get("/penstock/v1/me", headers=bearer))["workspace_id"] == api.initial.workspace_id


async def test_a_membership_taken_away_ends_tokens_and_callers_there(api: Api) -> None:
    one = await workload(api, oauth_scope="workspace:developer", applies_to_all_workspaces=True, workspace_id=None)
    second = await one.boss.post("/v1/organizations/workspaces", {"name": "second"})
    path = f"/v1/organizations/service_accounts/{one.account['id']}/workspaces"
    await one.boss.post(path, {"workspace_id": second["id"], "workspace_role": "workspace_user"})
    bearer = api.bearing(ok(await one.exchange(workspace_id=second["id"]))["access_token"])
    body = {"csr_pem": certs.make_csr(certs.make_ec_key(), "caller")}
    caller = ok(await api.http.post("/penstock/v1/callers/certificates", json=body, headers=bearer))
    credential = ok(await api.enrol())["credential"]
    assert caller["caller_id"] in (await api.snapshot(credential)).text
    assert (await one.boss.send("DELETE", f"{path}/{second['id']}")).is_success
    refused(await api.http.get("/penstock/v1/me", headers=bearer), 401)
    assert caller["caller_id"] not in (await api.snapshot(credential)).text
    # The default workspace is everybody's, and taking it away does nothing.
    assert (await one.boss.send("DELETE", f"{path}/{api.initial.workspace_id}")).is_success
    assert ok(await one.exchange(workspace_id="default"))


async def test_org_admin_needs_the_service_accounts_role_when_the_token_is_used(api: Api) -> None:
    one = await workload(api)
    path = f"/v1/organizations/service_accounts/{one.account['id']}"
    refused(
        await one.boss.send("POST", f"/v1/organizations/federation_rules/{one.rule['id']}", json={"oauth_scope": "org:admin"}),
        400,
        "organization_role",
    )
    await one.boss.post(path, {"organization_role": "admin"})
    await one.change_rule(oauth_scope="org:admin")
    bearer = api.bearing(ok(await one.exchange())["access_token"], **BETA)
    assert (await api.http.get("/v1/organizations/users", headers=bearer)).is_success
    # What a workload may not give itself or others.
    rule = {
        "name": "more",
        "issuer_id": one.issuer["id"],
        "match": {"subject_prefix": "system:ci"},
        "target": {"type": "service_account", "service_account_id": one.account["id"]},
        "oauth_scope": "workspace:manage_tunnels",
        "applies_to_all_workspaces": True,
    }
    rules = "/v1/organizations/federation_rules"
    refused(await api.http.post(rules, json=rule, headers=bearer), 403, "people")
    assert (await api.http.post(rules, json=rule | {"oauth_scope": "workspace:inference"}, headers=bearer)).is_success
    admin = {"name": "boss", "organization_role": "admin"}
    refused(await api.http.post("/v1/organizations/service_accounts", json=admin, headers=bearer), 403)
    await one.boss.post(path, {"organization_role": "developer"})
    refused(await api.http.get("/v1/organizations/users", headers=bearer), 403)


async def test_the_history_keeps_so_much_and_no_more(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api("small", public_url=AUDIENCE, federation={"history_length": 3})
    one = await workload(api)
    for number in range(5):
        await one.exchange(one.idp.sign(sub=f"user:{number}"))
    kept = (await one.boss.get("/penstock/v1/authentications", params={"outcome": "denied"}))["data"]
    assert [line["subject"] for line in kept] == ["user:4", "user:3", "user:2"]
