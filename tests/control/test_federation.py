"""Service accounts, issuers and rules, driven by the official SDK: its types judge every shape."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic.lib.credentials import exchange_federation_assertion
from sqlalchemy import Engine, event
from tests.support.idp import ISSUER, Idp
from tests.support.people import Person, admin, another, ok, operator, refused, sign_in
from tests.support.workloads import AUDIENCE, workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio

RULES = "/v1/organizations/federation_rules"
ISSUERS = "/v1/organizations/federation_issuers"


@pytest.fixture
async def api(start_api: Callable[..., Any]) -> Api:
    started: Api = await start_api(public_url=AUDIENCE)
    return started


@pytest.fixture
async def boss(api: Api) -> Person:
    return await admin(api)


@pytest.fixture
async def sdk(api: Api, boss: Person) -> AsyncIterator[Any]:
    """The SDK's organization resources with an admin's session."""
    # Strict: an answer that its types do not describe fails here and not in a user's hands.
    async with anthropic.AsyncAnthropic(
        base_url=api.control.url, auth_token=boss.token, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client.beta.organization


async def test_the_sdk_makes_changes_lists_and_archives_a_service_account(sdk: Any) -> None:
    made = await sdk.service_accounts.create(name="ci", description="builds")
    assert (made.type, made.organization_role, made.archived_at) == ("service_account", "developer", None)
    assert made.created_by_actor_id.startswith("user_")
    changed = await sdk.service_accounts.update(made.id, organization_role="admin")
    assert (changed.organization_role, changed.description) == ("admin", "builds")
    assert (await sdk.service_accounts.update(made.id, description=None)).description is None
    with pytest.raises(anthropic.ConflictError):
        await sdk.service_accounts.create(name="ci")
    archived = await sdk.service_accounts.archive(made.id)
    assert archived.archived_at is not None
    assert (await sdk.service_accounts.archive(made.id)).archived_at == archived.archived_at
    assert [account.id async for account in sdk.service_accounts.list()] == []
    assert [account.id async for account in sdk.service_accounts.list(include_archived=True)] == [made.id]
    assert (await sdk.service_accounts.create(name="ci")).id != made.id


async def test_the_sdk_pages_through_more_than_a_page(sdk: Any) -> None:
    made = [(await sdk.service_accounts.create(name=f"a{n}")).id for n in range(5)]
    assert [account.id async for account in sdk.service_accounts.list(limit=2)] == made[::-1]


async def test_the_sdk_manages_memberships_from_both_sides(api: Api, sdk: Any) -> None:
    account = await sdk.service_accounts.create(name="ci")
    workspace = await sdk.workspaces.create(name="second")
    (implicit,) = (await sdk.service_accounts.workspaces.list(account.id)).data
    assert (implicit.workspace_id, implicit.implicit) == (api.initial.workspace_id, True)
    added = await sdk.service_accounts.workspaces.add(
        account.id, workspace_id=workspace.id, workspace_role="workspace_developer"
    )
    assert (added.type, added.workspace_role, added.implicit) == (
        "service_account_workspace_member",
        "workspace_developer",
        False,
    )
    changed = await sdk.workspaces.service_accounts.update(
        account.id, workspace_id=workspace.id, workspace_role="workspace_admin"
    )
    assert changed.workspace_role == "workspace_admin"
    got = await sdk.workspaces.service_accounts.retrieve(account.id, workspace_id=workspace.id)
    assert got.workspace_role == "workspace_admin"
    listed = [member.service_account_id async for member in sdk.workspaces.service_accounts.list(workspace.id)]
    assert listed == [account.id]
    gone = await sdk.workspaces.service_accounts.remove(account.id, workspace_id=workspace.id)
    assert gone.type == "service_account_workspace_member_deleted"
    assert (await sdk.service_accounts.workspaces.remove(workspace.id, service_account_id=account.id)).workspace_id
    with pytest.raises(anthropic.NotFoundError):
        await sdk.workspaces.service_accounts.retrieve(account.id, workspace_id=workspace.id)


async def test_the_sdk_makes_changes_and_archives_an_issuer(sdk: Any) -> None:
    keys = [Idp().jwk]
    made = await sdk.federation.issuers.create(
        name="idp", issuer_url="https://idp.internal/x", jwks={"type": "inline", "keys": keys}
    )
    assert (made.type, made.check_jti, made.max_jwt_lifetime_seconds) == ("federation_issuer", True, 3600)
    assert made.jwks.type == "inline"
    assert made.poll_status is None
    changed = await sdk.federation.issuers.update(made.id, check_jti=False, max_jwt_lifetime_seconds=60)
    assert (changed.check_jti, changed.max_jwt_lifetime_seconds, changed.name) == (False, 60, "idp")
    assert [issuer.id async for issuer in sdk.federation.issuers.list()] == [made.id]
    archived = await sdk.federation.issuers.archive(made.id)
    with pytest.raises(anthropic.BadRequestError):
        await sdk.federation.issuers.update(made.id, name="other")
    assert (await sdk.federation.issuers.retrieve(made.id)).archived_at == archived.archived_at


async def test_the_sdk_makes_changes_and_archives_a_rule(api: Api, sdk: Any) -> None:
    issuer = await sdk.federation.issuers.create(name="idp", issuer_url=ISSUER, jwks={"type": "inline", "keys": [Idp().jwk]})
    account = await sdk.service_accounts.create(name="ci")
    rule = await sdk.federation.rules.create(
        name="ci",
        issuer_id=issuer.id,
        match={"subject_prefix": "a*", "claims": {"env": "prod"}, "condition": "claims.n == 1"},
        target={"type": "service_account", "service_account_id": account.id},
        oauth_scope="workspace:manage_tunnels workspace:developer",
        workspace_id=api.initial.workspace_id,
    )
    assert (rule.type, rule.issuer_name, rule.target.service_account_name) == ("federation_rule", "idp", "ci")
    assert (rule.workspace_id, rule.workspace_ids) == (api.initial.workspace_id, [api.initial.workspace_id])
    assert (rule.token_lifetime_seconds, rule.applies_to_all_workspaces, rule.attributes) == (3600, False, None)
    changed = await sdk.federation.rules.update(rule.id, match={"subject_prefix": "b"}, token_lifetime_seconds=60)
    assert (changed.match.subject_prefix, changed.match.claims, changed.token_lifetime_seconds) == ("b", None, 60)
    workspace = await sdk.workspaces.create(name="second")
    added = await sdk.federation.rules.workspaces.add(rule.id, workspace_id=workspace.id)
    assert (added.type, added.workspace_name) == ("federation_rule_workspace", None)
    assert await sdk.federation.rules.workspaces.add(rule.id, workspace_id=workspace.id) == added
    names = [enabled.workspace_name async for enabled in sdk.federation.rules.workspaces.list(rule.id)]
    assert names == ["second", "default"]
    with pytest.raises(anthropic.BadRequestError):  # enabled for several
        await sdk.federation.rules.update(rule.id, workspace_id=workspace.id)
    gone = await sdk.federation.rules.workspaces.remove(workspace.id, federation_rule_id=rule.id)
    assert gone.type == "federation_rule_workspace_deleted"
    for kind in (sdk.federation.issuers.archive(issuer.id), sdk.service_accounts.archive(account.id)):
        with pytest.raises(anthropic.BadRequestError, match=rule.id):
            await kind
    archived = await sdk.federation.rules.archive(rule.id)
    assert (archived.workspace_ids, archived.workspace_id) == ([], None)
    assert [one.id async for one in sdk.federation.rules.list(issuer_id=issuer.id, include_archived=True)] == [rule.id]
    assert [one.id async for one in sdk.federation.rules.list()] == []
    await sdk.federation.issuers.archive(issuer.id)


async def test_the_sdk_reads_workspaces_users_and_keys(api: Api, sdk: Any) -> None:
    assert [workspace.id async for workspace in sdk.workspaces.list()] == [api.initial.workspace_id]
    assert (await sdk.workspaces.retrieve(api.initial.workspace_id)).name == "default"
    (user,) = [user async for user in sdk.users.list()]
    assert (user.email, user.role) == (api.initial.admin_email, "admin")
    keys = [key async for key in sdk.api_keys.list(limit=1)]
    assert len(keys) == 2
    assert (await sdk.api_keys.update(keys[0].id, status="inactive")).status == "inactive"


async def test_the_sdk_exchanges_an_assertion_and_manages_tunnels_with_it(api: Api) -> None:
    one = await workload(api)
    # The SDK takes only loopback without TLS, and the exchange is synchronous there.
    token = await asyncio.to_thread(
        exchange_federation_assertion,
        assertion=one.idp.sign(),
        federation_rule_id=one.rule["id"],
        organization_id=api.initial.organization_id,
        base_url=api.control.url,
    )
    async with anthropic.AsyncAnthropic(base_url=api.control.url, auth_token=token.token, max_retries=0) as client:
        tunnel = await client.beta.tunnels.create(display_name="by workload")
        assert [each.id async for each in client.beta.tunnels.list()] == [tunnel.id]


WRONG_ISSUERS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"name": "No Slug"}, "name"),
    ({"issuer_url": "http://idp.example.com"}, "issuer_url: url must use https scheme"),
    ({"issuer_url": "https://idp.example.com:8443"}, "issuer_url: url must use port 443"),
    ({"issuer_url": "https://10.0.0.1"}, "issuer_url: url must use a DNS name"),
    ({"issuer_url": "https://[::1]/"}, "issuer_url: url must use a DNS name"),
    ({"issuer_url": "https://2130706433/"}, "issuer_url"),
    ({"issuer_url": "https://127.1/"}, "issuer_url"),
    ({"issuer_url": "https://localhost"}, "issuer_url: url must use a public DNS name"),
    ({"issuer_url": "https://user@idp.example.com"}, "issuer_url"),
    ({"issuer_url": "https://a\\@b.example.com"}, "issuer_url"),
    ({"jwks": {"type": "discovery", "discovery_base": "https://10.0.0.1"}}, "jwks.discovery_base"),
    ({"jwks": {"type": "explicit_url", "url": "http://idp.example.com/k"}}, "jwks.url: url must use https scheme"),
    ({"jwks": {"type": "explicit_url"}}, "jwks.explicit_url.url"),
    ({"jwks": {"type": "magic"}}, "jwks"),
    ({"jwks": {"type": "inline", "keys": []}}, "jwks.inline.keys"),
    ({"jwks": {"type": "inline", "keys": {"keys": []}}}, "jwks.inline.keys"),
    ({"jwks": {"type": "inline", "keys": [{"kty": "oct", "kid": "a", "k": "AAAA"}]}}, "symmetric"),
    ({"jwks": {"type": "inline", "keys": [Idp.rsa(1024).jwk]}}, "jwks.keys.0: RSA of 1024 bits"),
    ({"jwks": {"type": "inline", "keys": [{"kid": "k1", "kty": []}]}}, "jwks.keys.0: kty [] is not RSA or EC"),
    ({"jwks": {"type": "inline", "keys": [{"kid": "k1", "kty": "EC", "key_ops": 5}]}}, "jwks.keys.0: it is not for signatures"),
    ({"jwks": {"type": "inline", "keys": [{**Idp().jwk, "kid": ""}]}}, "no kid"),
    ({"jwks": {"type": "inline", "keys": [{**Idp().jwk, "d": "AAAA"}]}}, "private"),
    ({"jwks": {"type": "discovery", "discovery_base": "https://idp.example.com", "ca_cert_pem": "x"}}, "ca_cert_pem"),
    ({"max_jwt_lifetime_seconds": 176_401}, "max_jwt_lifetime_seconds"),
)


async def test_an_issuer_that_may_not_be_says_which_field(boss: Person) -> None:
    full = {"name": "idp", "issuer_url": "https://idp.internal.example", "jwks": {"type": "inline", "keys": [Idp().jwk]}}
    for body, text in WRONG_ISSUERS:
        # Where the keys are inline the URL is only compared.
        sent = {name: value for name, value in (full | body).items() if name != "jwks" or "issuer_url" not in body}
        refused(await boss.send("POST", ISSUERS, json=sent), 400, text)


WRONG_RULES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"match": {"audience": "x"}}, "at least one"),
    ({"match": {"subject_prefix": "*"}}, "at least one"),
    ({"match": {"subjectprefix": "a"}}, "match.subjectprefix"),
    ({"match": {"condition": "true"}}, "always True"),
    ({"match": {"condition": "1 == 1 || claims.x"}}, "always True"),
    ({"match": {"condition": "claims.sub =="}}, "not a CEL expression"),
    ({"match": {"condition": "request.sub == 'a'"}}, "only `claims`"),
    ({"match": {"condition": f"claims.sub == '{'a' * 5000}'"}}, "longer than"),
    ({"oauth_scope": "workspace:everything"}, "oauth_scope"),
    ({"oauth_scope": "org:admin"}, "organization_role"),
    ({"workspace_id": None}, "workspace_id"),
    ({"applies_to_all_workspaces": True}, "workspace_id"),
    ({"workspace_id": "wrkspc_other"}, "workspace_id"),
    ({"issuer_id": "fdis_other"}, "issuer_id"),
    ({"target": {"type": "service_account", "service_account_id": "svac_other"}}, "target.service_account_id"),
    ({"attributes": {"a": "claims.b"}}, "attributes"),
    ({"token_lifetime_seconds": 59}, "token_lifetime_seconds"),
)


async def test_a_rule_that_may_not_be_says_which_field(api: Api) -> None:
    one = await workload(api)
    full = {
        "name": "other",
        "issuer_id": one.issuer["id"],
        "match": {"subject_prefix": "a"},
        "target": {"type": "service_account", "service_account_id": one.account["id"]},
        "oauth_scope": "workspace:developer",
        "workspace_id": api.initial.workspace_id,
    }
    for body, text in WRONG_RULES:
        refused(await one.boss.send("POST", RULES, json=full | body), 400, text)


async def test_managing_federation_is_its_own_right(api: Api, boss: Person) -> None:
    person = await another(api, boss, manage_tunnels=True)
    refused(await person.send("GET", ISSUERS), 403, "org:manage_federation")
    await boss.post(f"/v1/organizations/users/{person.id}", {"manage_federation": True})
    assert (await person.send("GET", ISSUERS)).is_success
    refused(await api.http.get(RULES), 403)  # a Tunnels API key


async def test_an_organizations_federation_is_its_own(api: Api) -> None:
    one = await workload(api)
    chief = await operator(api)
    made = await chief.post("/penstock/v1/organizations", {"name": "other", "admin_email": "a@other.example"})
    stranger = Person(api, ok(await sign_in(api, made["admin_email"], made["admin_password"])))
    for path in (
        f"{RULES}/{one.rule['id']}",
        f"{ISSUERS}/{one.issuer['id']}",
        f"/v1/organizations/service_accounts/{one.account['id']}",
    ):
        refused(await stranger.send("GET", path), 404)
        refused(await stranger.send("POST", path, json={}), 404)
        refused(await stranger.send("POST", f"{path}/archive"), 404)
    assert (await stranger.get("/penstock/v1/authentications"))["data"] == []


async def test_a_page_of_many_rules_asks_the_database_as_little_as_one_of_one(api: Api) -> None:
    one = await workload(api)
    more = {name: one.rule[name] for name in ("issuer_id", "match", "oauth_scope", "workspace_id")}
    more["target"] = {"type": "service_account", "service_account_id": one.account["id"]}
    asked: list[str] = []

    async def questions() -> int:
        asked.clear()
        await one.boss.get(RULES)
        return len(asked)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        few = await questions()
        for number in range(10):
            await one.boss.post(RULES, {"name": f"more-{number}", **more})
        listed = await one.boss.get(RULES)
        assert [rule["issuer_name"] for rule in listed["data"]] == ["idp"] * 11
        assert all(rule["workspace_ids"] == [more["workspace_id"]] for rule in listed["data"])
        assert await questions() == few
    finally:
        event.remove(Engine, "before_cursor_execute", note)
