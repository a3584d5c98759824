"""Who makes a request. Each comes out of one function of this module alone, after its secret was found and still holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, select

from penstock import ids
from penstock.control.auth import keys, scopes
from penstock.control.errors import ApiError
from penstock.control.storage import identities, tables

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.secret import Secret

_DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts in an organization, where and with which scopes: an API key, a service account or a person."""

    id: str
    actor_type: str
    """`api_key`, `service_account` or `user`."""
    organization_id: str
    workspace_id: str
    caller_id: str
    """Whom its certificates speak for."""
    scopes: frozenset[str]
    credential_id: str
    """The key, access token or session it came with."""

    @property
    def is_person(self) -> bool:
        """Whether a human being signed in: some things are not for workloads."""
        return self.actor_type == "user"


@dataclass(frozen=True, slots=True)
class Operator:
    """A person who runs the platform and belongs to no organization."""

    id: str
    credential_id: str
    organization_id: str | None = None

    @property
    def actor_type(self) -> str:
        """For the audit log."""
        return "operator"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Whoever holds an enrolment token: it may become an edge."""

    id: str
    organization_id: str | None = None

    @property
    def actor_type(self) -> str:
        """For the audit log."""
        return "enrolment_token"


@dataclass(frozen=True, slots=True)
class Edge:
    """An enrolled edge."""

    id: str
    name: str
    organization_id: str | None = None

    @property
    def actor_type(self) -> str:
        """For the audit log."""
        return "edge"


async def authenticate(
    connection: AsyncConnection, secret: Secret, now: datetime, workspace: str | None = None
) -> Principal | Operator:
    """Who presents this secret. `workspace` is where a person wants to act; every other credential has one workspace.

    Raises ApiError.
    """
    if keys.is_kind(secret, keys.Kind.SESSION):
        return await _session(connection, secret, now, workspace)
    if keys.is_kind(secret, keys.Kind.ACCESS_TOKEN):
        principal = await _access_token(connection, secret, now)
    else:
        principal = await _key(connection, secret)
    if workspace is not None and workspace != principal.workspace_id:
        raise ApiError("invalid_request_error", "anthropic-workspace-id: not the workspace of this credential")
    return principal


async def enrolment(connection: AsyncConnection, secret: Secret) -> Enrolment:
    """The enrolment token this secret is. Raises ApiError."""
    t = tables.enrolment_tokens
    row = None
    if keys.is_kind(secret, keys.Kind.ENROLMENT):
        found = await connection.execute(
            select(t.c.id).where(t.c.digest == keys.digest(secret), t.c.spent_at.is_(None), t.c.revoked_at.is_(None))
        )
        row = found.one_or_none()
    if row is None:
        raise ApiError("authentication_error", "invalid enrolment token", hint="it may be spent or revoked; make a new one")
    return Enrolment(*row)


async def edge(connection: AsyncConnection, secret: Secret) -> Edge:
    """The edge this credential is of. Raises ApiError."""
    t = tables.edges
    row = None
    if keys.is_kind(secret, keys.Kind.EDGE):
        found = await connection.execute(select(t.c.id, t.c.name).where(t.c.digest == keys.digest(secret)))
        row = found.one_or_none()
    if row is None:
        raise ApiError("authentication_error", "invalid edge credential", hint="the edge has to enrol again")
    return Edge(*row)


def caller_id_of(holder_id: str, workspace_id: str) -> str:
    """Whom the certificates of a service account or a person speak for: the same id whenever it acts in that workspace."""
    return ids.make(ids.CALLER, hashlib.sha256(f"{holder_id} {workspace_id}".encode()).digest())


async def _key(connection: AsyncConnection, secret: Secret) -> Principal:
    t, w, o = tables.api_keys, tables.workspaces, tables.organizations
    row = None
    if keys.is_kind(secret, keys.Kind.API_KEY) or keys.is_kind(secret, keys.Kind.TUNNELS_KEY):
        columns = (t.c.id, t.c.organization_id, t.c.workspace_id, t.c.caller_id, t.c.scope, o.c.suspended_at, o.c.deleted_at)
        query = select(*columns).join(w, w.c.id == t.c.workspace_id).join(o, o.c.id == t.c.organization_id)
        is_live = and_(t.c.revoked_at.is_(None), t.c.disabled_at.is_(None), w.c.archived_at.is_(None))
        row = (await connection.execute(query.where(t.c.digest == keys.digest(secret), is_live))).one_or_none()
    if row is None or row.deleted_at is not None:
        raise ApiError(
            "authentication_error",
            "invalid API key",
            hint="use a `pst-key-…` or `pst-tunnels-…` of this control plane; it may be revoked",
        )
    _refuse_suspended(row)
    return Principal(
        id=row.id,
        actor_type="api_key",
        organization_id=row.organization_id,
        workspace_id=row.workspace_id,
        caller_id=row.caller_id,
        scopes=frozenset(row.scope.split()),
        credential_id=row.id,
    )


async def _access_token(connection: AsyncConnection, secret: Secret, now: datetime) -> Principal:
    t, s, m = identities.access_tokens, identities.service_accounts, identities.service_account_members
    w, o = tables.workspaces, tables.organizations
    query = (
        select(t, s.c.organization_role, o.c.suspended_at)
        .join(s, s.c.id == t.c.service_account_id)
        .join(w, w.c.id == t.c.workspace_id)
        .join(o, o.c.id == t.c.organization_id)
        # A membership that ended ends its tokens, too.
        .join(m, and_(m.c.service_account_id == s.c.id, m.c.workspace_id == t.c.workspace_id))
        .where(t.c.digest == keys.digest(secret), t.c.expires_at > now)
        .where(s.c.archived_at.is_(None), w.c.archived_at.is_(None), o.c.deleted_at.is_(None))
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise ApiError("authentication_error", "invalid access token", hint="it may have ended; exchange a new assertion")
    _refuse_suspended(row)
    return Principal(
        id=row.service_account_id,
        actor_type="service_account",
        organization_id=row.organization_id,
        workspace_id=row.workspace_id,
        caller_id=caller_id_of(row.service_account_id, row.workspace_id),
        scopes=scopes.of_workload(row.scope, row.organization_role),
        credential_id=row.id,
    )


async def _session(connection: AsyncConnection, secret: Secret, now: datetime, workspace: str | None) -> Principal | Operator:
    t, u, o = identities.sessions, identities.users, tables.organizations
    columns = (u.c.id, u.c.organization_id, u.c.role, u.c.manage_tunnels, u.c.manage_federation)
    query = (
        select(*columns, t.c.id.label("session_id"), o.c.suspended_at, o.c.deleted_at)
        .join(u, u.c.id == t.c.user_id)
        .outerjoin(o, o.c.id == u.c.organization_id)
        .where(t.c.digest == keys.digest(secret), t.c.expires_at > now, u.c.removed_at.is_(None))
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None or row.deleted_at is not None:
        raise ApiError("authentication_error", "the session has ended", hint="run `penstock login` again")
    if row.organization_id is None:
        return Operator(row.id, row.session_id)
    _refuse_suspended(row)
    principal = Principal(
        id=row.id,
        actor_type="user",
        organization_id=row.organization_id,
        workspace_id="",
        caller_id="",
        scopes=scopes.of_person(row.role, manage_tunnels=row.manage_tunnels, manage_federation=row.manage_federation),
        credential_id=row.session_id,
    )
    return await _in_workspace(connection, principal, workspace or _DEFAULT)


async def _in_workspace(connection: AsyncConnection, principal: Principal, workspace: str) -> Principal:
    t = tables.workspaces
    chosen = t.c.is_default.is_(True) if workspace == _DEFAULT else t.c.id == workspace
    query = select(t.c.id).where(t.c.organization_id == principal.organization_id, t.c.archived_at.is_(None), chosen)
    workspace_id = (await connection.execute(query)).scalar_one_or_none()
    if workspace_id is None:
        raise ApiError("invalid_request_error", "anthropic-workspace-id: not a workspace of this organization")
    return replace(principal, workspace_id=workspace_id, caller_id=caller_id_of(principal.id, workspace_id))


def _refuse_suspended(row: Any) -> None:
    if row.suspended_at is not None:
        raise ApiError("permission_error", "the organization is suspended", hint="ask the operator of this platform")
