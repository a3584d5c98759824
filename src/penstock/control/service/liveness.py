"""Who still is: conditions on rows that edges are told of. What ends an identity ends it here, so that nobody can forget to.

Written as existence and not as joins, for they are used under queries of any shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, exists, or_

from penstock.control.auth import scopes
from penstock.control.storage import identities, tables

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement


def of_workspace(workspace_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """A workspace that is not archived, of an organization that is neither suspended nor deleted."""
    w, o = tables.workspaces, tables.organizations
    return exists().where(
        w.c.id == workspace_id,
        w.c.archived_at.is_(None),
        o.c.id == w.c.organization_id,
        o.c.suspended_at.is_(None),
        o.c.deleted_at.is_(None),
    )


def of_organization(organization_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """An organization that is neither suspended nor deleted."""
    o = tables.organizations
    return exists().where(o.c.id == organization_id, o.c.suspended_at.is_(None), o.c.deleted_at.is_(None))


def of_caller_certificate() -> tuple[ColumnElement[bool], ...]:
    """A caller certificate whose workspace lives and whose holder may still act there."""
    c, k, u = tables.caller_certificates, tables.api_keys, identities.users
    s, m = identities.service_accounts, identities.service_account_members
    key = exists().where(k.c.id == c.c.holder_id, k.c.revoked_at.is_(None), k.c.disabled_at.is_(None))
    person = exists().where(u.c.id == c.c.holder_id, u.c.removed_at.is_(None), u.c.role.in_(scopes.CALLERS))
    workload = exists().where(
        s.c.id == c.c.holder_id,
        s.c.archived_at.is_(None),
        and_(m.c.service_account_id == s.c.id, m.c.workspace_id == c.c.workspace_id),
    )
    return of_workspace(c.c.workspace_id), or_(key, workload, person)
