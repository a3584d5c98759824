"""Service accounts: who a workload is here. Every one belongs to the default workspace, and to others by membership."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, insert, select

from penstock import ids
from penstock.control.errors import ApiError
from penstock.control.service import audit, grants, named, workspaces
from penstock.control.storage import identities
from penstock.control.storage.database import advance_feed
from penstock.schema.federation import (
    ServiceAccount,
    ServiceAccountCreate,
    ServiceAccountPage,
    ServiceAccountUpdate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_t = identities.service_accounts
_m = identities.service_account_members
KIND: Final = "service account"


async def create(core: Core, by: Principal, request: ServiceAccountCreate) -> ServiceAccount:
    """A new service account. Raises ApiError: only an admin in person makes one an admin."""
    grants.refuse_role(by, request.organization_role)
    row: dict[str, Any] = {
        "id": core.new_id(ids.SERVICE_ACCOUNT),
        "organization_id": by.organization_id,
        "name": request.name,
        "description": request.description,
        "organization_role": request.organization_role,
        **named.born(core, by),
    }
    async with core.database.write() as connection:
        await named.refuse_taken(connection, _t, by.organization_id, request.name, KIND)
        await connection.execute(insert(_t).values(row))
        everywhere = {
            "service_account_id": row["id"],
            "workspace_id": await workspaces.default_id(connection, by.organization_id),
            "role": "workspace_user",
            "implicit": True,
            "created_at": row["created_at"],
            "created_by": None,
        }
        await connection.execute(insert(_m).values(everywhere))
        created = {"service_account_id": row["id"], "name": row["name"], "organization_role": row["organization_role"]}
        await audit.record(core, connection, by, "service_account_created", created)
    return _service_account(row)


async def get(core: Core, by: Principal, account_id: str) -> ServiceAccount:
    """One service account. Raises ApiError 404."""
    async with core.database.read() as connection:
        return _service_account(await named.find(connection, _t, by.organization_id, account_id, KIND))


async def list_page(core: Core, by: Principal, *, include_archived: bool, limit: int, cursor: str | None) -> ServiceAccountPage:
    """Newest first."""
    async with core.database.read() as connection:
        rows, following = await named.read(
            connection, _t, by.organization_id, include_archived=include_archived, limit=limit, cursor=cursor
        )
    return ServiceAccountPage(data=tuple(_service_account(row) for row in rows), next_page=following)


async def change(core: Core, by: Principal, account_id: str, request: ServiceAccountUpdate) -> ServiceAccount:
    """Another description or role."""
    wanted = request.model_dump(exclude_unset=True)
    if wanted.get("organization_role", "") is None:
        del wanted["organization_role"]
    async with core.database.write() as connection:
        row = await named.find_live(connection, _t, by.organization_id, account_id, KIND)
        if wanted.get("organization_role", row["organization_role"]) != row["organization_role"]:
            grants.refuse_role(by, wanted["organization_role"])
        await named.change(core, connection, _t, by, row, **wanted)
        changed = {"service_account_id": account_id, "organization_role": row["organization_role"]}
        await audit.record(core, connection, by, "service_account_updated", changed)
    return _service_account(row)


async def archive(core: Core, by: Principal, account_id: str) -> ServiceAccount:
    """End it, its tokens and its certificates. Again: the record as it is. Raises ApiError while a live rule targets it."""
    r = identities.federation_rules
    async with core.database.write() as connection:
        row = await named.find(connection, _t, by.organization_id, account_id, KIND)
        if row["archived_at"] is None:
            targeting = select(r.c.id).where(r.c.service_account_id == account_id, r.c.archived_at.is_(None))
            if (rule_id := (await connection.execute(targeting.limit(1))).scalar_one_or_none()) is not None:
                raise ApiError("invalid_request_error", f"the rule {rule_id} targets it", hint="archive its rules first")
            await named.change(core, connection, _t, by, row, archived_at=core.now(), archived_by=by.id)
            t = identities.access_tokens
            await connection.execute(delete(t).where(t.c.service_account_id == account_id))
            await advance_feed(connection)
            await audit.record(core, connection, by, "service_account_archived", {"service_account_id": account_id})
    return _service_account(row)


def _service_account(row: Mapping[Any, Any]) -> ServiceAccount:
    names = ("id", "name", "description", "organization_role")
    return ServiceAccount(**{name: row[name] for name in names}, **named.told(row))
