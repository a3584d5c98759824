"""What somebody may give away: nobody makes a credential, a rule or a person that may do more than they may themselves.

An admin has everything of the organization. Whoever only manages federation would otherwise be one, by a rule of their own; and
a workload that could let a person in would have given itself what only people have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from penstock.control.auth import scopes
from penstock.control.errors import ApiError
from penstock.control.storage import identities

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal

_OF_WORKLOADS: Final = frozenset({scopes.DEVELOPER, scopes.INFERENCE})  # as published
_r = identities.federation_rules


def refuse_scope(by: Principal, granted: str) -> None:
    """Raises ApiError 403 when a rule or a key would grant more than whoever makes or changes it may."""
    if not (beyond := set(granted.split()) - _grantable(by)):
        return
    if by.is_person:
        raise ApiError("permission_error", f"oauth_scope: you may not give {min(beyond)}", hint="ask an admin")
    raise ApiError("permission_error", f"oauth_scope: {min(beyond)} is given by people", hint="run `penstock login`")


def refuse_scope_by_workload(by: Principal, granted: str) -> None:
    """As `refuse_scope`, of workloads alone: a person may always end what a rule grants."""
    if not by.is_person:
        refuse_scope(by, granted)


async def refuse_issuer(connection: AsyncConnection, by: Principal, issuer_id: str) -> None:
    """As `refuse_scope`, of every live rule of an issuer: whoever says which keys are its own may be anybody to them."""
    query = select(_r.c.oauth_scope).where(_r.c.issuer_id == issuer_id, _r.c.archived_at.is_(None))
    for granted in (await connection.execute(query)).scalars():
        refuse_scope(by, granted)


def refuse_role(by: Principal, role: str | None) -> None:
    """Raises ApiError 403 for a service account's `admin` by anybody but an admin in person."""
    if role == "admin" and not (by.is_person and scopes.ADMIN in by.scopes):
        raise ApiError("permission_error", "organization_role: only an admin, in person, makes a service account an admin")


def refuse_letting_in(by: Principal) -> None:
    """Raises ApiError 403 for a workload that would give somebody a password."""
    if not by.is_person:
        raise ApiError("permission_error", "people are let in by people", hint="run `penstock login`")


def refuse_person(by: Principal, row: Mapping[str, Any]) -> None:
    """Raises ApiError 403 for a workload that changes somebody who has, or would get, what workloads do not give."""
    if not by.is_person and (row["role"] == "admin" or row["manage_tunnels"] or row["manage_federation"]):
        raise ApiError("permission_error", "admins, and people with grants, are changed by people", hint="run `penstock login`")


def _grantable(by: Principal) -> frozenset[str]:
    if not by.is_person:
        return _OF_WORKLOADS
    return scopes.PUBLISHED if scopes.ADMIN in by.scopes else by.scopes
