"""Workspaces: every key, tunnel and caller belongs to one. The default one is made with its organization and stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from penstock import ids
from penstock.control.errors import ApiError
from penstock.control.service import audit
from penstock.control.service.pages import IdPage, read_ids
from penstock.control.storage import tables
from penstock.control.storage.database import advance_feed
from penstock.schema.organizations import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.actors import Acting
    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core
    from penstock.control.service.pages import IdCursor

_t = tables.workspaces


async def add(
    core: Core, connection: AsyncConnection, by: Acting, organization_id: str, name: str, *, is_default: bool = False
) -> dict[str, Any]:
    """A new workspace, in the transaction of whatever it is part of."""
    row: dict[str, Any] = {
        "id": core.new_id(ids.WORKSPACE),
        "organization_id": organization_id,
        "name": name,
        "is_default": is_default,
        "created_at": core.now(),
        "archived_at": None,
    }
    await connection.execute(insert(_t).values(row))
    created = {"workspace_id": row["id"], "name": name}
    await audit.record(core, connection, by, "workspace_created", created, organization_id=organization_id)
    return row


async def create(core: Core, by: Principal, name: str) -> Workspace:
    """A new workspace of the organization."""
    async with core.database.write() as connection:
        return _workspace(await add(core, connection, by, by.organization_id, name))


async def get(core: Core, by: Principal, workspace_id: str) -> Workspace:
    """One workspace, archived or not. Raises ApiError 404."""
    async with core.database.read() as connection:
        return _workspace(await find(connection, by.organization_id, workspace_id))


async def list_page(
    core: Core,
    by: Principal,
    cursor: IdCursor,
    *,
    only: Sequence[str] | None = None,
    include_archived: bool,
    include_default: bool = True,
) -> IdPage[Workspace]:
    """Newest first; of `only` where they are given."""
    query = select(_t).where(_t.c.organization_id == by.organization_id)
    if only is not None:
        query = query.where(_t.c.id.in_(only))
    if not include_default:
        query = query.where(_t.c.is_default.is_(False))
    if not include_archived:
        query = query.where(_t.c.archived_at.is_(None))
    async with core.database.read() as connection:
        return (await read_ids(connection, query, _t, cursor)).of(_workspace)


async def rename(core: Core, by: Principal, workspace_id: str, name: str | None) -> Workspace:
    """Another name; None leaves it. Raises ApiError."""
    async with core.database.write() as connection:
        row = await find_live(connection, by.organization_id, workspace_id)
        if name is None:
            return _workspace(row)
        await connection.execute(update(_t).where(_t.c.id == workspace_id).values(name=name))
        await audit.record(core, connection, by, "workspace_updated", {"workspace_id": workspace_id, "name": name})
        return _workspace({**row, "name": name})


async def archive(core: Core, by: Principal, workspace_id: str) -> Workspace:
    """End a workspace: its keys, tunnels and callers stop by the feed. Again: the record as it is."""
    async with core.database.write() as connection:
        row = dict(await find(connection, by.organization_id, workspace_id))
        if row["is_default"]:
            raise ApiError("invalid_request_error", "the default workspace cannot be archived")
        if row["archived_at"] is None:
            row["archived_at"] = core.now()
            await connection.execute(update(_t).where(_t.c.id == workspace_id).values(archived_at=row["archived_at"]))
            await advance_feed(connection)
            await audit.record(core, connection, by, "workspace_archived", {"workspace_id": workspace_id})
        return _workspace(row)


async def find(connection: AsyncConnection, organization_id: str, workspace_id: str) -> Mapping[str, Any]:
    """The row of a workspace of this organization. Raises ApiError 404."""
    query = select(_t).where(_t.c.id == workspace_id, _t.c.organization_id == organization_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise ApiError("not_found_error", "workspace not found")
    return dict(row)


async def find_live(connection: AsyncConnection, organization_id: str, workspace_id: str) -> Mapping[str, Any]:
    """As `find`, and not archived: ApiError 400 then."""
    row = await find(connection, organization_id, workspace_id)
    if row["archived_at"] is not None:
        raise ApiError("invalid_request_error", "workspace_id: the workspace is archived")
    return row


async def default_id(connection: AsyncConnection, organization_id: str) -> str:
    """The default workspace."""
    query = select(_t.c.id).where(_t.c.organization_id == organization_id, _t.c.is_default.is_(True))
    return (await connection.execute(query)).scalar_one()


def _workspace(row: Mapping[Any, Any]) -> Workspace:
    return Workspace(
        id=row["id"],
        name=row["name"],
        created_at=row["created_at"],
        archived_at=row["archived_at"],
        compartment_id=row["organization_id"],
    )
