"""Federation and service accounts: the published objects and bodies (`/v1/organizations/…`, `/v1/oauth/token`)."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from penstock.schema.wire import Exact, Wire

Slug: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[a-z0-9-]+$")]
Description: TypeAlias = Annotated[str, StringConstraints(max_length=2000)]
Text: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
OrganizationRole: TypeAlias = Literal["admin", "developer"]
WorkspaceRole: TypeAlias = Literal["workspace_admin", "workspace_developer", "workspace_restricted_developer", "workspace_user"]


class _Audited(Wire):
    created_at: datetime
    created_by_actor_id: str | None
    updated_at: datetime
    updated_by_actor_id: str | None
    archived_at: datetime | None
    archived_by_actor_id: str | None


# --- service accounts ------------------------------------------------------------------------------------------------------


class ServiceAccount(_Audited):
    """A workload's identity."""

    id: str
    name: str
    description: str | None
    organization_role: OrganizationRole
    type: Literal["service_account"] = "service_account"


class ServiceAccountCreate(Wire):
    """Body of `POST /v1/organizations/service_accounts`."""

    name: Slug
    description: Description | None = None
    organization_role: OrganizationRole = "developer"


class ServiceAccountUpdate(Wire):
    """What is left out stays; null clears the description."""

    description: Description | None = None
    organization_role: OrganizationRole | None = None


class ServiceAccountPage(Wire):
    """One page, newest first."""

    data: tuple[ServiceAccount, ...]
    next_page: str | None


class Member(Wire):
    """A service account in a workspace. `implicit`: the default workspace, where every one is."""

    service_account_id: str
    workspace_id: str
    workspace_role: WorkspaceRole
    implicit: bool
    created_by_actor_id: str | None
    type: Literal["service_account_workspace_member"] = "service_account_workspace_member"


class MemberOfWorkspace(Wire):
    """Body of `POST …/service_accounts/{id}/workspaces`."""

    workspace_id: str
    workspace_role: WorkspaceRole


class MemberInWorkspace(Wire):
    """Body of `POST …/workspaces/{id}/service_accounts`."""

    service_account_id: str
    workspace_role: WorkspaceRole


class MemberRole(Wire):
    """Body of `POST …/workspaces/{id}/service_accounts/{service_account_id}`."""

    workspace_role: WorkspaceRole


class MemberPage(Wire):
    """One page, newest first."""

    data: tuple[Member, ...]
    next_page: str | None


class MemberDeleted(Wire):
    """What is left of a membership."""

    service_account_id: str
    workspace_id: str
    type: Literal["service_account_workspace_member_deleted"] = "service_account_workspace_member_deleted"


# --- issuers ---------------------------------------------------------------------------------------------------------------


class JwksDiscovery(Exact):
    """Keys by the issuer's OpenID discovery document."""

    type: Literal["discovery"] = "discovery"
    discovery_base: Text | None = None
    ca_cert_pem: Annotated[str, StringConstraints(max_length=32_768)] | None = None


class JwksExplicitUrl(Exact):
    """Keys from one URL; `issuer_url` is then only compared."""

    type: Literal["explicit_url"]
    url: Text
    ca_cert_pem: Annotated[str, StringConstraints(max_length=32_768)] | None = None


class JwksInline(Exact):
    """The keys themselves."""

    type: Literal["inline"]
    keys: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=100)]


Jwks: TypeAlias = Annotated[JwksDiscovery | JwksExplicitUrl | JwksInline, Field(discriminator="type")]
JwtLifetime: TypeAlias = Annotated[int, Field(ge=1, le=176_400)]


class PollStatus(Wire):
    """How fetching the keys goes."""

    consecutive_failures: int
    last_fetched_at: datetime | None
    next_poll_at: datetime | None


class Issuer(_Audited):
    """An identity provider the organization trusts. `issuer_url` is compared with `iss` byte for byte."""

    id: str
    name: str
    issuer_url: str
    jwks: Jwks
    check_jti: bool
    max_jwt_lifetime_seconds: int
    jwks_polling_disabled_at: datetime | None
    poll_status: PollStatus | None
    type: Literal["federation_issuer"] = "federation_issuer"


class IssuerCreate(Wire):
    """Body of `POST /v1/organizations/federation_issuers`."""

    name: Slug
    issuer_url: Text
    jwks: Jwks = JwksDiscovery()
    check_jti: bool | None = None
    max_jwt_lifetime_seconds: JwtLifetime | None = None


class IssuerUpdate(Wire):
    """What is left out stays."""

    name: Slug | None = None
    issuer_url: Text | None = None
    jwks: Jwks | None = None
    check_jti: bool | None = None
    max_jwt_lifetime_seconds: JwtLifetime | None = None
    jwks_polling_disabled: bool | None = None


class IssuerPage(Wire):
    """One page, newest first."""

    data: tuple[Issuer, ...]
    next_page: str | None


# --- rules -----------------------------------------------------------------------------------------------------------------


class RuleMatch(Exact):
    """What an assertion must be: all populated fields hold."""

    subject_prefix: Text | None = None
    audience: Text | None = None
    claims: Annotated[dict[str, str], Field(max_length=50)] | None = None
    condition: Annotated[str, StringConstraints(min_length=1)] | None = None


class RuleTarget(Exact):
    """Whom a token speaks for. The name is told and not asked."""

    type: Literal["service_account"]
    service_account_id: str
    service_account_name: str | None = None


TokenLifetime: TypeAlias = Annotated[int, Field(ge=60, le=86_400)]


class Rule(_Audited):
    """Which assertions become which tokens."""

    id: str
    name: str
    description: str | None
    issuer_id: str
    issuer_name: str | None
    match: RuleMatch
    target: RuleTarget
    oauth_scope: str
    token_lifetime_seconds: int
    workspace_id: str | None
    workspace_ids: tuple[str, ...]
    applies_to_all_workspaces: bool
    attributes: None = None
    type: Literal["federation_rule"] = "federation_rule"


class RuleCreate(Wire):
    """Body of `POST /v1/organizations/federation_rules`."""

    name: Slug
    issuer_id: str
    match: RuleMatch
    target: RuleTarget
    oauth_scope: Text
    workspace_id: str | None = None
    applies_to_all_workspaces: bool = False
    token_lifetime_seconds: TokenLifetime = 3600
    description: Description | None = None
    attributes: dict[str, str] | None = None


class RuleUpdate(Wire):
    """What is left out stays."""

    name: Slug | None = None
    match: RuleMatch | None = None
    target: RuleTarget | None = None
    oauth_scope: Text | None = None
    workspace_id: str | None = None
    applies_to_all_workspaces: bool | None = None
    token_lifetime_seconds: TokenLifetime | None = None
    description: Description | None = None
    attributes: dict[str, str] | None = None


class RulePage(Wire):
    """One page, newest first."""

    data: tuple[Rule, ...]
    next_page: str | None


class RuleWorkspace(Wire):
    """A workspace a rule is enabled for."""

    federation_rule_id: str
    workspace_id: str
    workspace_name: str | None
    created_at: datetime
    created_by_actor_id: str | None
    type: Literal["federation_rule_workspace"] = "federation_rule_workspace"


class RuleWorkspaceAdd(Wire):
    """Body of `POST …/federation_rules/{id}/workspaces`."""

    workspace_id: str


class RuleWorkspaceList(Wire):
    """All of them: this list has no pages."""

    data: tuple[RuleWorkspace, ...]
    next_page: None = None


class RuleWorkspaceDeleted(Wire):
    """What is left of it."""

    federation_rule_id: str
    workspace_id: str
    type: Literal["federation_rule_workspace_deleted"] = "federation_rule_workspace_deleted"


# --- the exchange ----------------------------------------------------------------------------------------------------------


class TokenRequest(Wire):
    """Body of `POST /v1/oauth/token`: RFC 7523 in JSON."""

    grant_type: str
    assertion: str
    federation_rule_id: str
    organization_id: str
    service_account_id: str | None = None
    workspace_id: str | None = None


class TokenAnswer(Wire):
    """A bearer for the workspace the rule decided."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a scheme's name
    expires_in: int
    scope: str


class Authentication(Wire):
    """One exchange in the history: what the one who asked was not told."""

    id: str
    created_at: datetime
    outcome: Literal["granted", "denied"]
    reason: str | None
    detail: str | None
    subject: str | None
    federation_issuer_id: str | None
    federation_rule_id: str | None
    service_account_id: str | None
    workspace_id: str | None
    token_id: str | None
    type: Literal["authentication"] = "authentication"


class AuthenticationPage(Wire):
    """One page, newest first."""

    data: tuple[Authentication, ...]
    next_page: str | None
