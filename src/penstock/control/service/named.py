"""What service accounts, issuers and rules share: a name once an organization, who changed them last, an end by archiving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from penstock.control.errors import ApiError
from penstock.control.service.pages import read_page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core


async def find(connection: AsyncConnection, table: Table, organization_id: str, what_id: str, kind: str) -> dict[str, Any]:
    """The row of one of an organization's things, archived or not. Raises ApiError 404."""
    query = select(table).where(table.c.id == what_id, table.c.organization_id == organization_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise ApiError("not_found_error", f"{kind} not found")
    return dict(row)


async def find_live(connection: AsyncConnection, table: Table, organization_id: str, what_id: str, kind: str) -> dict[str, Any]:
    """As `find`, and not archived: ApiError 400 then."""
    row = await find(connection, table, organization_id, what_id, kind)
    if row["archived_at"] is not None:
        raise ApiError("invalid_request_error", f"the {kind} is archived")
    return row


async def refuse_taken(
    connection: AsyncConnection, table: Table, organization_id: str, name: str, kind: str, besides: str = ""
) -> None:
    """Raises ApiError 409 when a live thing of the kind has this name. Writers come one after the other, so it stays true."""
    query = select(table.c.id).where(
        table.c.organization_id == organization_id,
        table.c.name == name,
        table.c.archived_at.is_(None),
        table.c.id != besides,
    )
    if (await connection.execute(query)).first() is not None:
        raise ApiError("conflict_error", f"name: there is a {kind} of this name")


async def read(
    connection: AsyncConnection,
    table: Table,
    organization_id: str,
    *conditions: ColumnElement[bool],
    include_archived: bool,
    limit: int,
    cursor: str | None,
) -> tuple[tuple[Mapping[str, Any], ...], str | None]:
    """One page, newest first."""
    query = select(table).where(table.c.organization_id == organization_id, *conditions)
    if not include_archived:
        query = query.where(table.c.archived_at.is_(None))
    return await read_page(connection, query, table, limit=limit, cursor=cursor)


async def change(
    core: Core, connection: AsyncConnection, table: Table, by: Principal, row: dict[str, Any], **values: Any
) -> None:
    """Write `values` to the row and to `row`, with who did it and when."""
    values |= {"updated_at": core.now(), "updated_by": by.id}
    await connection.execute(update(table).where(table.c.id == row["id"]).values(values))
    row |= values


def born(core: Core, by: Principal) -> dict[str, Any]:
    """The audit columns of a new row."""
    now = core.now()
    return {
        "created_at": now,
        "created_by": by.id,
        "updated_at": now,
        "updated_by": by.id,
        "archived_at": None,
        "archived_by": None,
    }


def told(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The audit columns as the published objects name them."""
    return {
        "created_at": row["created_at"],
        "created_by_actor_id": row["created_by"],
        "updated_at": row["updated_at"],
        "updated_by_actor_id": row["updated_by"],
        "archived_at": row["archived_at"],
        "archived_by_actor_id": row["archived_by"],
    }
