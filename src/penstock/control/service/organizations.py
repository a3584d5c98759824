"""Organizations, as a platform operator sees them: made, suspended, resumed, deleted. An operator reads nothing inside one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import delete, insert, select, update

from penstock.control.errors import ApiError
from penstock.control.service import audit, people, roots, tunnels, workspaces
from penstock.control.service.pages import read_page
from penstock.control.storage import identities, tables
from penstock.control.storage.database import advance_feed
from penstock.schema.organizations import Organization, OrganizationCreate, OrganizationCreated, OrganizationPage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.actors import Acting
    from penstock.control.auth.principals import Operator
    from penstock.control.service.core import Core

_t = tables.organizations


async def add(
    core: Core, connection: AsyncConnection, by: Acting, name: str, workspace: str = "default"
) -> tuple[dict[str, Any], str]:
    """A new organization with its caller CA and default workspace; the row and the workspace's id."""
    row: dict[str, Any] = {
        "id": str(UUID(bytes=core.entropy(16), version=4)),
        "name": name,
        "created_at": core.now(),
        "suspended_at": None,
        "deleted_at": None,
    }
    await connection.execute(insert(_t).values(row))
    await roots.create_caller_ca(core, connection, row["id"])
    created = {"created_organization_id": row["id"], "name": name}
    await audit.record(core, connection, by, "organization_created", created, organization_id=row["id"])
    made = await workspaces.add(core, connection, by, row["id"], workspace, is_default=True)
    return row, made["id"]


async def create(core: Core, by: Operator, request: OrganizationCreate) -> OrganizationCreated:
    """A new organization and its first admin."""
    async with core.database.write() as connection:
        row, workspace_id = await add(core, connection, by, request.name)
        admin, password = await people.add(
            core, connection, by, organization_id=row["id"], email=request.admin_email, role="admin"
        )
        await advance_feed(connection)  # edges learn its caller CA
    return OrganizationCreated(
        **_organization(row).model_dump(),
        workspace_id=workspace_id,
        admin_id=admin["id"],
        admin_email=admin["email"],
        admin_password=password.reveal(),
    )


async def get(core: Core, organization_id: str) -> Organization:
    """One organization. Raises ApiError 404."""
    async with core.database.read() as connection:
        return _organization(await _find(connection, organization_id))


async def list_page(core: Core, *, limit: int, cursor: str | None) -> OrganizationPage:
    """Newest first."""
    query = select(_t).where(_t.c.deleted_at.is_(None))
    async with core.database.read() as connection:
        rows, following = await read_page(connection, query, _t, limit=limit, cursor=cursor)
    return OrganizationPage(data=tuple(_organization(row) for row in rows), next_page=following)


async def suspend(core: Core, by: Operator, organization_id: str) -> Organization:
    """Stop everything of an organization, by the feed. Again: the record as it is."""
    async with core.database.write() as connection:
        row = await _find(connection, organization_id)
        if row["suspended_at"] is None:
            row["suspended_at"] = core.now()
            await _set(connection, organization_id, suspended_at=row["suspended_at"])
            fields = {"suspended_organization_id": organization_id}
            await audit.record(core, connection, by, "organization_suspended", fields, organization_id=organization_id)
    return _organization(row)


async def resume(core: Core, by: Operator, organization_id: str) -> Organization:
    """Undo `suspend`: keys, tunnels and certificates are as they were."""
    async with core.database.write() as connection:
        row = await _find(connection, organization_id)
        if row["suspended_at"] is not None:
            row["suspended_at"] = None
            await _set(connection, organization_id, suspended_at=None)
            fields = {"resumed_organization_id": organization_id}
            await audit.record(core, connection, by, "organization_resumed", fields, organization_id=organization_id)
    return _organization(row)


async def remove(core: Core, by: Operator, organization_id: str) -> None:
    """Delete an organization for good: its people, tunnels, keys and secrets. What is left is names nobody gets again."""
    now = core.now()
    u, t, k = identities.users, tables.tunnels, tables.api_keys
    async with core.database.write() as connection:
        row = await _find(connection, organization_id)
        users = select(u.c.id).where(u.c.organization_id == organization_id)
        await connection.execute(delete(identities.sessions).where(identities.sessions.c.user_id.in_(users)))
        of = (identities.access_tokens, identities.authentications, tables.caller_certificates)
        for table in of:
            await connection.execute(delete(table).where(table.c.organization_id == organization_id))
        await connection.execute(
            update(u).where(u.c.organization_id == organization_id).values(removed_at=now, password_hash=None)
        )
        live = (k.c.organization_id == organization_id, k.c.revoked_at.is_(None))
        await connection.execute(update(k).where(*live).values(revoked_at=now))
        for tunnel_id in (await connection.execute(select(t.c.id).where(t.c.organization_id == organization_id))).scalars():
            await tunnels.forget_secret(core, connection, tunnel_id, organization_id)
        live = (t.c.organization_id == organization_id, t.c.archived_at.is_(None))
        await connection.execute(update(t).where(*live).values(archived_at=now))
        await roots.remove_caller_ca(connection, organization_id)
        await _set(connection, organization_id, deleted_at=now)
        fields = {"deleted_organization_id": organization_id, "name": row["name"]}
        await audit.record(core, connection, by, "organization_deleted", fields, organization_id=organization_id)


async def _set(connection: AsyncConnection, organization_id: str, **values: Any) -> None:
    await connection.execute(update(_t).where(_t.c.id == organization_id).values(values))
    await advance_feed(connection)


async def _find(connection: AsyncConnection, organization_id: str) -> dict[str, Any]:
    query = select(_t).where(_t.c.id == organization_id, _t.c.deleted_at.is_(None))
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise ApiError("not_found_error", "organization not found")
    return dict(row)


def _organization(row: Mapping[Any, Any]) -> Organization:
    return Organization(id=row["id"], name=row["name"], created_at=row["created_at"], suspended_at=row["suspended_at"])
