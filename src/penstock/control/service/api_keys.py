"""API keys and Tunnels API keys: each of one workspace, shown once, kept as a hash.

A key calls through tunnels or manages them, never both: what runs an agent's tools holds no right to reveal a tunnel token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import false, insert, select, update

from penstock import ids
from penstock.control.auth import keys, scopes
from penstock.control.errors import ApiError
from penstock.control.service import audit, grants, workspaces
from penstock.control.service.pages import IdPage, read_ids
from penstock.control.storage import tables
from penstock.control.storage.database import advance_feed
from penstock.schema.organizations import ApiKey, ApiKeyCreate, ApiKeyCreated, ApiKeyUpdate, KeyMaker, KeyPlace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.actors import Acting
    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core
    from penstock.control.service.pages import IdCursor
    from penstock.secret import Secret

_t = tables.api_keys


async def add(
    core: Core,
    connection: AsyncConnection,
    by: Acting,
    *,
    organization_id: str,
    workspace_id: str,
    name: str,
    scope: str,
    created_by: str | None = None,
) -> tuple[dict[str, Any], Secret]:
    """A new key and its secret, in the transaction of whatever it is part of."""
    manages = scope == scopes.MANAGE_TUNNELS
    secret = keys.make(keys.Kind.TUNNELS_KEY if manages else keys.Kind.API_KEY, core.entropy)
    row: dict[str, Any] = {
        "id": core.new_id(ids.API_KEY),
        "organization_id": organization_id,
        "workspace_id": workspace_id,
        "caller_id": core.new_id(ids.CALLER),
        "name": name,
        "digest": keys.digest(secret),
        "scope": scope,
        "hint": keys.hint(secret),
        "created_at": core.now(),
        "created_by": created_by,
        "disabled_at": None,
        "revoked_at": None,
    }
    await connection.execute(insert(_t).values(row))
    if manages:
        minted = {"token_id": row["id"], "token_name": name or None}
        await audit.record(core, connection, by, "tunnel_token_minted", minted, organization_id=organization_id)
    else:
        created = {"api_key_id": row["id"], "workspace_id": workspace_id, "name": name}
        await audit.record(core, connection, by, "api_key_created", created, organization_id=organization_id)
    return row, secret


async def create(core: Core, by: Principal, request: ApiKeyCreate) -> ApiKeyCreated:
    """A new key of a workspace. Raises ApiError: who may not manage tunnels makes no key that does."""
    manages = request.oauth_scope == scopes.MANAGE_TUNNELS
    if by.scopes.isdisjoint({scopes.ADMIN, scopes.MANAGE_TUNNELS} if manages else {scopes.ADMIN, scopes.DEVELOPER}):
        raise ApiError("permission_error", f"making a key with {request.oauth_scope} takes that right", hint="ask an admin")
    # A key that makes keys would outlive its own revocation.
    if not by.is_person and scopes.ADMIN not in by.scopes:
        raise ApiError("permission_error", "keys are made by people, or with org:admin", hint="run `penstock login`")
    grants.refuse_scope_by_workload(by, request.oauth_scope)
    async with core.database.write() as connection:
        workspace_id = request.workspace_id or by.workspace_id
        await workspaces.find_live(connection, by.organization_id, workspace_id)
        row, secret = await add(
            core,
            connection,
            by,
            organization_id=by.organization_id,
            workspace_id=workspace_id,
            name=request.name,
            scope=request.oauth_scope,
            created_by=by.id,
        )
    return ApiKeyCreated(**_api_key(row).model_dump(), api_key=secret.reveal())


async def get(core: Core, by: Principal, key_id: str) -> ApiKey:
    """One key, never its secret. Raises ApiError 404."""
    async with core.database.read() as connection:
        return _api_key(await _find(connection, by.organization_id, key_id))


async def list_page(
    core: Core, by: Principal, cursor: IdCursor, *, status: str | None, workspace_id: str | None, created_by: str | None
) -> IdPage[ApiKey]:
    """Newest first, of the whole organization."""
    query = select(_t).where(_t.c.organization_id == by.organization_id)
    if workspace_id is not None:
        query = query.where(_t.c.workspace_id == workspace_id)
    if created_by is not None:
        query = query.where(_t.c.created_by == created_by)
    if status == "archived":
        query = query.where(_t.c.revoked_at.is_not(None))
    elif status == "inactive":
        query = query.where(_t.c.revoked_at.is_(None), _t.c.disabled_at.is_not(None))
    elif status == "active":
        query = query.where(_t.c.revoked_at.is_(None), _t.c.disabled_at.is_(None))
    elif status == "expired":
        query = query.where(false())  # keys here end when somebody ends them
    async with core.database.read() as connection:
        return (await read_ids(connection, query, _t, cursor)).of(_api_key)


async def change(core: Core, by: Principal, key_id: str, request: ApiKeyUpdate) -> ApiKey:
    """Another name or status. A key that is not active stops everywhere, with every certificate it got."""
    async with core.database.write() as connection:
        row = dict(await _find(connection, by.organization_id, key_id))
        before = _status(row)
        if before == "archived" and request.status not in {None, "archived"}:
            raise ApiError("invalid_request_error", "status: an archived key stays archived", hint="make a new key")
        row["name"] = request.name if request.name is not None else row["name"]
        if request.status is not None and request.status != before:
            row["disabled_at"] = None if request.status == "active" else core.now()
            row["revoked_at"] = core.now() if request.status == "archived" else None
        changed = {name: row[name] for name in ("name", "disabled_at", "revoked_at")}
        await connection.execute(update(_t).where(_t.c.id == key_id).values(changed))
        await advance_feed(connection)
        await _record_change(core, connection, by, row, before)
    return _api_key(row)


async def revoke(core: Core, connection: AsyncConnection, by: Acting, key_id: str) -> bool:
    """End a live key, whoever's it is; False when there is none. For the machine's own commands."""
    query = update(_t).where(_t.c.id == key_id, _t.c.revoked_at.is_(None)).values(revoked_at=core.now())
    found = (await connection.execute(query.returning(_t))).mappings().one_or_none()
    if found is None:
        return False
    await advance_feed(connection)
    await _record_change(core, connection, by, dict(found), "active")
    return True


async def _record_change(core: Core, connection: AsyncConnection, by: Acting, row: Mapping[str, Any], before: str) -> None:
    organization_id = row["organization_id"]
    if before == "archived" or row["revoked_at"] is None:
        fields = {"api_key_id": row["id"], "name": row["name"], "status": _status(row)}
        await audit.record(core, connection, by, "api_key_updated", fields, organization_id=organization_id)
    elif row["scope"] == scopes.MANAGE_TUNNELS:
        revoked = {"token_id": row["id"], "token_name": row["name"] or None}
        await audit.record(core, connection, by, "tunnel_token_revoked", revoked, organization_id=organization_id)
    else:
        revoked = {"api_key_id": row["id"]}
        await audit.record(core, connection, by, "api_key_revoked", revoked, organization_id=organization_id)


async def _find(connection: AsyncConnection, organization_id: str, key_id: str) -> Mapping[str, Any]:
    query = select(_t).where(_t.c.id == key_id, _t.c.organization_id == organization_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise ApiError("not_found_error", "API key not found")
    return dict(row)


def _status(row: Mapping[Any, Any]) -> str:
    if row["revoked_at"] is not None:
        return "archived"
    return "inactive" if row["disabled_at"] is not None else "active"


def _api_key(row: Mapping[Any, Any]) -> ApiKey:
    maker: str | None = row["created_by"]
    made_by = KeyMaker(id=maker, type="user" if maker.startswith(ids.USER) else "service_account") if maker else None
    return ApiKey.model_validate(
        {
            "id": row["id"],
            "created_at": row["created_at"],
            "created_by": made_by,
            "name": row["name"],
            "partial_key_hint": row["hint"],
            "scope": KeyPlace(workspace_id=row["workspace_id"]),
            "oauth_scope": row["scope"],
            "status": _status(row),
        }
    )
