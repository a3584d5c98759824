"""Which service account may act in which workspace. Taking a membership away ends its tokens and certificates there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, insert, or_, select, update

from penstock.control.errors import ApiError
from penstock.control.service import audit, named, pages, service_accounts, workspaces
from penstock.control.storage import identities
from penstock.control.storage.database import advance_feed
from penstock.schema.federation import Member, MemberPage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_t = identities.service_account_members
_s = identities.service_accounts


async def put(core: Core, by: Principal, account_id: str, workspace_id: str, role: str) -> Member:
    """Make it a member, or give a member another role."""
    async with core.database.write() as connection:
        await _find_account(connection, by, account_id)
        await workspaces.find_live(connection, by.organization_id, workspace_id)
        row = await _find(connection, account_id, workspace_id)
        if row is None:
            row = {
                "service_account_id": account_id,
                "workspace_id": workspace_id,
                "role": role,
                "implicit": False,
                "created_at": core.now(),
                "created_by": by.id,
            }
            await connection.execute(insert(_t).values(row))
        else:
            row |= {"role": role, "implicit": False}
            await connection.execute(update(_t).where(_is(account_id, workspace_id)).values(role=role, implicit=False))
        given = {"service_account_id": account_id, "workspace_id": workspace_id, "workspace_role": role}
        await audit.record(core, connection, by, "service_account_member_set", given)
    return _member(row)


async def change(core: Core, by: Principal, account_id: str, workspace_id: str, role: str) -> Member:
    """Another role of a member. Raises ApiError: 404 where it is none, 400 for the implicit one."""
    if (await get(core, by, account_id, workspace_id)).implicit:
        raise ApiError("invalid_request_error", "the membership is implicit", hint="add the service account to it instead")
    return await put(core, by, account_id, workspace_id, role)


async def get(core: Core, by: Principal, account_id: str, workspace_id: str) -> Member:
    """One membership. Raises ApiError 404."""
    async with core.database.read() as connection:
        await named.find(connection, _s, by.organization_id, account_id, service_accounts.KIND)
        row = await _find(connection, account_id, workspace_id)
    if row is None:
        raise ApiError("not_found_error", "the service account is not a member of this workspace")
    return _member(row)


async def of_account(core: Core, by: Principal, account_id: str, *, limit: int, cursor: str | None) -> MemberPage:
    """The workspaces of a service account, newest first."""
    async with core.database.read() as connection:
        await named.find(connection, _s, by.organization_id, account_id, service_accounts.KIND)
        return await _read(connection, _t.c.service_account_id == account_id, _t.c.workspace_id, limit, cursor)


async def of_workspace(core: Core, by: Principal, workspace_id: str, *, limit: int, cursor: str | None) -> MemberPage:
    """The service accounts of a workspace, newest first."""
    async with core.database.read() as connection:
        await workspaces.find_live(connection, by.organization_id, workspace_id)
        live = _t.c.service_account_id.in_(select(_s.c.id).where(_s.c.archived_at.is_(None)))
        return await _read(connection, and_(_t.c.workspace_id == workspace_id, live), _t.c.service_account_id, limit, cursor)


async def remove(core: Core, by: Principal, account_id: str, workspace_id: str) -> None:
    """End a membership, if there is one. Of the default workspace the implicit one stays."""
    async with core.database.write() as connection:
        await named.find(connection, _s, by.organization_id, account_id, service_accounts.KIND)
        row = await _find(connection, account_id, workspace_id)
        if row is None or row["implicit"]:
            return
        if workspace_id == await workspaces.default_id(connection, by.organization_id):
            back = {"role": "workspace_user", "implicit": True}
            await connection.execute(update(_t).where(_is(account_id, workspace_id)).values(back))
        else:
            await connection.execute(delete(_t).where(_is(account_id, workspace_id)))
            await advance_feed(connection)
        gone = {"service_account_id": account_id, "workspace_id": workspace_id}
        await audit.record(core, connection, by, "service_account_member_removed", gone)


async def _find_account(connection: AsyncConnection, by: Principal, account_id: str) -> None:
    row = await named.find(connection, _s, by.organization_id, account_id, service_accounts.KIND)
    if row["archived_at"] is not None:
        raise ApiError("not_found_error", "the service account is archived")


async def _find(connection: AsyncConnection, account_id: str, workspace_id: str) -> dict[str, Any] | None:
    row = (await connection.execute(select(_t).where(_is(account_id, workspace_id)))).mappings().one_or_none()
    return None if row is None else dict(row)


async def _read(connection: AsyncConnection, which: Any, other: Any, limit: int, cursor: str | None) -> MemberPage:
    query = select(_t).where(which)
    if cursor is not None:
        at, last = pages.position(cursor)
        query = query.where(or_(_t.c.created_at < at, and_(_t.c.created_at == at, other < last)))
    found = (await connection.execute(query.order_by(_t.c.created_at.desc(), other.desc()).limit(limit + 1))).mappings()
    rows = [dict(row) for row in found]
    following = None
    if len(rows) > limit:
        edge = rows[limit - 1]
        following = pages.encode(f"{edge['created_at'].isoformat()}|{edge[other.name]}")
    return MemberPage(data=tuple(_member(row) for row in rows[:limit]), next_page=following)


def _is(account_id: str, workspace_id: str) -> Any:
    return and_(_t.c.service_account_id == account_id, _t.c.workspace_id == workspace_id)


def _member(row: Mapping[Any, Any]) -> Member:
    return Member(
        service_account_id=row["service_account_id"],
        workspace_id=row["workspace_id"],
        workspace_role=row["role"],
        implicit=row["implicit"],
        created_by_actor_id=row["created_by"],
    )
