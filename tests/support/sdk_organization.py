"""Everything of an organization that the official SDK has and this platform promises, each method driven once and more.

What the SDK has beyond is told from its own sources: `published` reads which paths its organization resources ask for.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from tests.support.idp import Idp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_METHODS = {"get": "GET", "get_api_list": "GET", "post": "POST", "delete": "DELETE", "patch": "PATCH", "put": "PUT"}
_CALL = re.compile(r'self\._(\w+)\(\s*(?:path_template\(\s*)?"(/v1/organizations[^"?]*)')


def published() -> set[tuple[str, str]]:
    """Method and path of every organization resource of the SDK, ids as `{}`."""
    root = Path(anthropic.__file__).parent / "resources"
    sources = [path.read_text() for folder in ("organization", "beta/organization") for path in root.glob(f"{folder}/**/*.py")]
    return {(_METHODS[call], shape(path)) for source in sources for call, path in _CALL.findall(source)}


def shape(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


@asynccontextmanager
async def recorded(url: str, token: str) -> AsyncIterator[tuple[Any, list[tuple[str, str]]]]:
    """The SDK, strict about every answer, and the method and path of all that it asked."""
    asked: list[tuple[str, str]] = []

    async def note(request: Any) -> None:
        asked.append((request.method, request.url.path))

    http = anthropic.DefaultAsyncHttpxClient(event_hooks={"request": [note]})
    async with anthropic.AsyncAnthropic(
        base_url=url, auth_token=token, max_retries=0, _strict_response_validation=True, http_client=http
    ) as client:
        yield client, asked


async def live(organization: Any, *, user_id: str, key_id: str, is_beta: bool, tag: str) -> None:
    """An organization's life. `user_id` and `key_id` are of a user and a key that may go; `tag` makes names new."""
    assert (await organization.retrieve()).type == "organization"
    workspace = await _workspaces(organization, tag)
    await _people_and_keys(organization, user_id, key_id, is_beta=is_beta)
    account = await _accounts(organization, workspace, tag)
    await _federation(organization, workspace, account, tag)
    assert (await organization.service_accounts.archive(account)).archived_at is not None
    archived = await organization.workspaces.archive(workspace)
    assert (await organization.workspaces.archive(workspace)).archived_at == archived.archived_at


async def _workspaces(organization: Any, tag: str) -> str:
    workspaces = organization.workspaces
    made = await workspaces.create(name=f"research {tag}")
    assert (await workspaces.update(made.id, name=f"renamed {tag}")).name == f"renamed {tag}"
    with pytest.raises(anthropic.BadRequestError, match="tags"):  # not kept here, so not taken
        await workspaces.update(made.id, tags={"a": "b"})
    assert (await workspaces.retrieve(made.id)).name == f"renamed {tag}"
    assert (await workspaces.list(limit=1)).data[0].id == made.id
    assert [each.id async for each in workspaces.list(ids=[made.id], include_default=False, include_archived=True)] == [made.id]
    with pytest.raises(anthropic.NotFoundError):
        await workspaces.retrieve("wrkspc_unknown")
    return str(made.id)


async def _people_and_keys(organization: Any, user_id: str, key_id: str, *, is_beta: bool) -> None:
    users, keys = organization.users, organization.api_keys
    user = await users.retrieve(user_id)
    assert [each.id async for each in users.list(email=user.email, roles=["developer"])] == [user_id]
    assert (await users.update(user_id, role="user")).role == "user"
    if is_beta:
        assert (await users.sign_out(user_id)).id == user_id
    gone = await users.remove(user_id)
    assert (gone.id, gone.type) == (user_id, "user_deleted")
    assert (await keys.retrieve(key_id)).status == "active"
    assert (await keys.update(key_id, name="renamed", status="inactive")).name == "renamed"
    assert [each.id async for each in keys.list(status="inactive")] == [key_id]
    assert [each.id async for each in keys.list(status="expired")] == []
    assert (await keys.update(key_id, status="archived")).status == "archived"


async def _accounts(organization: Any, workspace: str, tag: str) -> str:
    accounts, members = organization.service_accounts, organization.workspaces.service_accounts
    made = await accounts.create(name=f"ci-{tag}", description="builds")
    assert (await accounts.update(made.id, description="and deploys")).description == "and deploys"
    assert (await accounts.retrieve(made.id)).name == f"ci-{tag}"
    assert made.id in [each.id async for each in accounts.list(limit=1)]
    with pytest.raises(anthropic.ConflictError):
        await accounts.create(name=f"ci-{tag}")
    await accounts.workspaces.add(made.id, workspace_id=workspace, workspace_role="workspace_user")
    assert workspace in [each.workspace_id async for each in accounts.workspaces.list(made.id)]
    await accounts.workspaces.remove(workspace, service_account_id=made.id)
    await members.add(workspace, service_account_id=made.id, workspace_role="workspace_developer")
    changed = await members.update(made.id, workspace_id=workspace, workspace_role="workspace_admin")
    assert changed.workspace_role == (await members.retrieve(made.id, workspace_id=workspace)).workspace_role
    assert [each.service_account_id async for each in members.list(workspace)] == [made.id]
    await members.remove(made.id, workspace_id=workspace)
    return str(made.id)


async def _federation(organization: Any, workspace: str, account: str, tag: str) -> None:
    issuers, rules = organization.federation.issuers, organization.federation.rules
    source = {"type": "inline", "keys": [Idp().jwk]}
    issuer = await issuers.create(name=f"idp-{tag}", issuer_url="https://idp.example.com", jwks=source)
    assert (await issuers.update(issuer.id, max_jwt_lifetime_seconds=600)).max_jwt_lifetime_seconds == 600
    assert (await issuers.retrieve(issuer.id)).id in [each.id async for each in issuers.list(limit=1)]
    rule = await rules.create(
        name=f"ci-{tag}",
        issuer_id=issuer.id,
        match={"subject_prefix": "system:*", "condition": "claims.env == 'prod'"},
        target={"type": "service_account", "service_account_id": account},
        oauth_scope="workspace:manage_tunnels",
        applies_to_all_workspaces=True,
    )
    assert (await rules.update(rule.id, description="of the pipeline")).description == "of the pipeline"
    assert (await rules.retrieve(rule.id)).id in [each.id async for each in rules.list(issuer_id=issuer.id)]
    await rules.workspaces.add(rule.id, workspace_id=workspace)
    assert [each.workspace_id async for each in rules.workspaces.list(rule.id)] == [workspace]
    await rules.workspaces.remove(workspace, federation_rule_id=rule.id)
    for archive in (rules.archive(rule.id), issuers.archive(issuer.id)):
        assert (await archive).archived_at is not None
