"""The published side of workload identity: service accounts, issuers and rules (`/v1/organizations/…`), and the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from fastapi import APIRouter, Depends, Query

from penstock.control.api.conditions import ByFederationManager, CoreOf, versioned
from penstock.control.api.routes import LateRoute
from penstock.control.service import authentications, issuers, members, rules, service_accounts
from penstock.schema import federation as wire

published: Final = APIRouter(prefix="/v1/organizations", route_class=LateRoute, dependencies=[Depends(versioned)])
own: Final = APIRouter(prefix="/penstock/v1", route_class=LateRoute)

_ACCOUNT: Final = "/service_accounts/{service_account_id}"
_WORKSPACE: Final = "/workspaces/{workspace_id}/service_accounts"
_ISSUER: Final = "/federation_issuers/{federation_issuer_id}"
_RULE: Final = "/federation_rules/{federation_rule_id}"


@dataclass(frozen=True, slots=True)
class _Paging:
    limit: int
    cursor: str | None


async def _paging(limit: Annotated[int, Query(ge=1, le=100)] = 20, page: str | None = None) -> _Paging:
    return _Paging(limit, page)


Paging: TypeAlias = Annotated[_Paging, Depends(_paging)]
By: TypeAlias = ByFederationManager

# --- service accounts ------------------------------------------------------------------------------------------------------


@published.post("/service_accounts")
async def create_service_account(core: CoreOf, by: By, body: wire.ServiceAccountCreate) -> wire.ServiceAccount:
    """Make a service account."""
    return await service_accounts.create(core, by, body)


@published.get("/service_accounts")
async def list_service_accounts(
    core: CoreOf, by: By, paging: Paging, *, include_archived: bool = False
) -> wire.ServiceAccountPage:
    """Service accounts, newest first."""
    return await service_accounts.list_page(
        core, by, include_archived=include_archived, limit=paging.limit, cursor=paging.cursor
    )


@published.get(_ACCOUNT)
async def get_service_account(core: CoreOf, by: By, service_account_id: str) -> wire.ServiceAccount:
    """One service account."""
    return await service_accounts.get(core, by, service_account_id)


@published.post(_ACCOUNT)
async def update_service_account(
    core: CoreOf, by: By, service_account_id: str, body: wire.ServiceAccountUpdate
) -> wire.ServiceAccount:
    """Change its description or role."""
    return await service_accounts.change(core, by, service_account_id, body)


@published.post(f"{_ACCOUNT}/archive")
async def archive_service_account(core: CoreOf, by: By, service_account_id: str) -> wire.ServiceAccount:
    """End it with its tokens and certificates."""
    return await service_accounts.archive(core, by, service_account_id)


@published.get(f"{_ACCOUNT}/workspaces")
async def list_workspaces_of_account(core: CoreOf, by: By, paging: Paging, service_account_id: str) -> wire.MemberPage:
    """Where it may act."""
    return await members.of_account(core, by, service_account_id, limit=paging.limit, cursor=paging.cursor)


@published.post(f"{_ACCOUNT}/workspaces")
async def add_workspace_to_account(core: CoreOf, by: By, service_account_id: str, body: wire.MemberOfWorkspace) -> wire.Member:
    """Let it act in one more workspace."""
    return await members.put(core, by, service_account_id, body.workspace_id, body.workspace_role)


@published.delete(f"{_ACCOUNT}/workspaces/{{workspace_id}}")
@published.delete(f"{_WORKSPACE}/{{service_account_id}}")
async def remove_member(core: CoreOf, by: By, service_account_id: str, workspace_id: str) -> wire.MemberDeleted:
    """End a membership, if there is one."""
    await members.remove(core, by, service_account_id, workspace_id)
    return wire.MemberDeleted(service_account_id=service_account_id, workspace_id=workspace_id)


@published.get(_WORKSPACE)
async def list_accounts_of_workspace(core: CoreOf, by: By, paging: Paging, workspace_id: str) -> wire.MemberPage:
    """Which service accounts may act in a workspace."""
    return await members.of_workspace(core, by, workspace_id, limit=paging.limit, cursor=paging.cursor)


@published.post(_WORKSPACE)
async def add_account_to_workspace(core: CoreOf, by: By, workspace_id: str, body: wire.MemberInWorkspace) -> wire.Member:
    """Let a service account act in this workspace."""
    return await members.put(core, by, body.service_account_id, workspace_id, body.workspace_role)


@published.get(f"{_WORKSPACE}/{{service_account_id}}")
async def get_member(core: CoreOf, by: By, workspace_id: str, service_account_id: str) -> wire.Member:
    """One membership."""
    return await members.get(core, by, service_account_id, workspace_id)


@published.post(f"{_WORKSPACE}/{{service_account_id}}")
async def update_member(core: CoreOf, by: By, workspace_id: str, service_account_id: str, body: wire.MemberRole) -> wire.Member:
    """Another role."""
    return await members.change(core, by, service_account_id, workspace_id, body.workspace_role)


# --- issuers ---------------------------------------------------------------------------------------------------------------


@published.post("/federation_issuers")
async def create_issuer(core: CoreOf, by: By, body: wire.IssuerCreate) -> wire.Issuer:
    """Trust an identity provider."""
    return await issuers.create(core, by, body)


@published.get("/federation_issuers")
async def list_issuers(core: CoreOf, by: By, paging: Paging, *, include_archived: bool = False) -> wire.IssuerPage:
    """Issuers, newest first."""
    return await issuers.list_page(core, by, include_archived=include_archived, limit=paging.limit, cursor=paging.cursor)


@published.get(_ISSUER)
async def get_issuer(core: CoreOf, by: By, federation_issuer_id: str) -> wire.Issuer:
    """One issuer, and how fetching its keys goes."""
    return await issuers.get(core, by, federation_issuer_id)


@published.post(_ISSUER)
async def update_issuer(core: CoreOf, by: By, federation_issuer_id: str, body: wire.IssuerUpdate) -> wire.Issuer:
    """Change an issuer, or turn polling on again."""
    return await issuers.change(core, by, federation_issuer_id, body)


@published.post(f"{_ISSUER}/archive")
async def archive_issuer(core: CoreOf, by: By, federation_issuer_id: str) -> wire.Issuer:
    """Trust it no more."""
    return await issuers.archive(core, by, federation_issuer_id)


# --- rules -----------------------------------------------------------------------------------------------------------------


@published.post("/federation_rules")
async def create_rule(core: CoreOf, by: By, body: wire.RuleCreate) -> wire.Rule:
    """Make a rule."""
    return await rules.create(core, by, body)


@published.get("/federation_rules")
async def list_rules(
    core: CoreOf, by: By, paging: Paging, *, issuer_id: str | None = None, include_archived: bool = False
) -> wire.RulePage:
    """Rules, newest first."""
    return await rules.list_page(
        core, by, issuer_id=issuer_id, include_archived=include_archived, limit=paging.limit, cursor=paging.cursor
    )


@published.get(_RULE)
async def get_rule(core: CoreOf, by: By, federation_rule_id: str) -> wire.Rule:
    """One rule."""
    return await rules.get(core, by, federation_rule_id)


@published.post(_RULE)
async def update_rule(core: CoreOf, by: By, federation_rule_id: str, body: wire.RuleUpdate) -> wire.Rule:
    """Change a rule."""
    return await rules.change(core, by, federation_rule_id, body)


@published.post(f"{_RULE}/archive")
async def archive_rule(core: CoreOf, by: By, federation_rule_id: str) -> wire.Rule:
    """End a rule."""
    return await rules.archive(core, by, federation_rule_id)


@published.get(f"{_RULE}/workspaces")
async def list_rule_workspaces(core: CoreOf, by: By, federation_rule_id: str) -> wire.RuleWorkspaceList:
    """Where a rule is enabled."""
    return await rules.list_workspaces(core, by, federation_rule_id)


@published.post(f"{_RULE}/workspaces")
async def add_rule_workspace(core: CoreOf, by: By, federation_rule_id: str, body: wire.RuleWorkspaceAdd) -> wire.RuleWorkspace:
    """Enable a rule for one more workspace."""
    return await rules.add_workspace(core, by, federation_rule_id, body.workspace_id)


@published.delete(f"{_RULE}/workspaces/{{workspace_id}}")
async def remove_rule_workspace(core: CoreOf, by: By, federation_rule_id: str, workspace_id: str) -> wire.RuleWorkspaceDeleted:
    """Disable a rule for a workspace."""
    await rules.remove_workspace(core, by, federation_rule_id, workspace_id)
    return wire.RuleWorkspaceDeleted(federation_rule_id=federation_rule_id, workspace_id=workspace_id)


# --- the history -----------------------------------------------------------------------------------------------------------


@own.get("/authentications")
async def list_authentications(
    core: CoreOf,
    by: By,
    paging: Paging,
    federation_rule_id: str | None = None,
    outcome: Literal["granted", "denied"] | None = None,
) -> wire.AuthenticationPage:
    """Exchanges and the reasons of those that were denied, newest first."""
    return await authentications.list_page(
        core, by, rule_id=federation_rule_id, outcome=outcome, limit=paging.limit, cursor=paging.cursor
    )
