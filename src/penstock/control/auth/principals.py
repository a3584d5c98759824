"""Who makes a request. Each comes out of one function of this module alone, after its secret was found and still holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from penstock.control.auth import keys
from penstock.control.errors import ApiError
from penstock.control.storage import tables

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.secret import Secret


@dataclass(frozen=True, slots=True)
class WorkspaceKey:
    """An API key: it acts for one workspace. `caller_id` is who its certificates speak for."""

    id: str
    organization_id: str
    workspace_id: str
    caller_id: str

    @property
    def actor_type(self) -> str:
        """For the audit log."""
        return "api_key"


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


async def workspace_key(connection: AsyncConnection, secret: Secret) -> WorkspaceKey:
    """The API key this secret is. Raises ApiError."""
    t = tables.api_keys
    row = None
    if keys.is_kind(secret, keys.Kind.API_KEY):
        query = select(t.c.id, t.c.organization_id, t.c.workspace_id, t.c.caller_id)
        found = await connection.execute(query.where(t.c.digest == keys.digest(secret), t.c.revoked_at.is_(None)))
        row = found.one_or_none()
    if row is None:
        raise ApiError(
            "authentication_error", "invalid API key", hint="use a `pst-key-…` of this control plane; it may be revoked"
        )
    return WorkspaceKey(*row)


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
