"""Federation rules: which assertions of an issuer become which tokens, for whom, and in which workspaces."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, insert, select

from penstock import ids
from penstock.control.auth import scopes
from penstock.control.errors import ApiError
from penstock.control.federation import matching, tenants
from penstock.control.service import audit, grants, issuers, named, service_accounts, workspaces
from penstock.control.storage import identities, tables
from penstock.schema.federation import (
    Rule,
    RuleCreate,
    RuleMatch,
    RulePage,
    RuleTarget,
    RuleUpdate,
    RuleWorkspace,
    RuleWorkspaceList,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_t = identities.federation_rules
_w = identities.federation_rule_workspaces
_i = identities.federation_issuers
_s = identities.service_accounts
KIND: Final = "federation rule"


async def create(core: Core, by: Principal, request: RuleCreate) -> Rule:
    """A new rule. Raises ApiError that begins with the field that is wrong."""
    if request.attributes:
        raise ApiError("invalid_request_error", "attributes: not supported yet")
    if (request.workspace_id is None) is not request.applies_to_all_workspaces:
        raise ApiError("invalid_request_error", "workspace_id: give either it or applies_to_all_workspaces: true")
    await _refuse_no_match(request.match)
    row: dict[str, Any] = {
        "id": core.new_id(ids.RULE),
        "organization_id": by.organization_id,
        "issuer_id": request.issuer_id,
        "name": request.name,
        "description": request.description,
        "match": request.match.model_dump_json(exclude_none=True),
        "service_account_id": request.target.service_account_id,
        "oauth_scope": request.oauth_scope,
        "token_lifetime_seconds": request.token_lifetime_seconds,
        "applies_to_all_workspaces": request.applies_to_all_workspaces,
        **named.born(core, by),
    }
    async with core.database.write() as connection:
        await named.refuse_taken(connection, _t, by.organization_id, request.name, KIND)
        await _check(connection, by, row)
        await connection.execute(insert(_t).values(row))
        if request.workspace_id is not None:
            await _enable(core, connection, by, row["id"], request.workspace_id)
        await audit.record(core, connection, by, "federation_rule_created", _told(row))
        return (await _rules(connection, [row]))[0]


async def get(core: Core, by: Principal, rule_id: str) -> Rule:
    """One rule. Raises ApiError 404."""
    async with core.database.read() as connection:
        return (await _rules(connection, [await named.find(connection, _t, by.organization_id, rule_id, KIND)]))[0]


async def list_page(
    core: Core, by: Principal, *, issuer_id: str | None, include_archived: bool, limit: int, cursor: str | None
) -> RulePage:
    """Newest first."""
    which = () if issuer_id is None else (_t.c.issuer_id == issuer_id,)
    async with core.database.read() as connection:
        rows, following = await named.read(
            connection, _t, by.organization_id, *which, include_archived=include_archived, limit=limit, cursor=cursor
        )
        return RulePage(data=await _rules(connection, rows), next_page=following)


async def change(core: Core, by: Principal, rule_id: str, request: RuleUpdate) -> Rule:
    """What is given replaces what was; `match` and `target` whole. Everything is checked again."""
    if request.attributes:
        raise ApiError("invalid_request_error", "attributes: not supported yet")
    wanted = request.model_dump(exclude_none=True, include={"name", "oauth_scope", "token_lifetime_seconds"})
    if "description" in request.model_fields_set:
        wanted["description"] = request.description or ""
    if request.match is not None:
        await _refuse_no_match(request.match)
        wanted["match"] = request.match.model_dump_json(exclude_none=True)
    if request.target is not None:
        wanted["service_account_id"] = request.target.service_account_id
    if request.applies_to_all_workspaces is not None:
        wanted["applies_to_all_workspaces"] = request.applies_to_all_workspaces
    async with core.database.write() as connection:
        row = await named.find_live(connection, _t, by.organization_id, rule_id, KIND)
        grants.refuse_scope(by, row["oauth_scope"])
        if request.name is not None:
            await named.refuse_taken(connection, _t, by.organization_id, request.name, KIND, rule_id)
        await _check(connection, by, row | wanted)
        enabled = await _workspace_ids(connection, rule_id)
        if request.workspace_id is not None:
            if len(enabled) > 1:
                raise ApiError(
                    "invalid_request_error", "workspace_id: the rule is enabled for several", hint="use …/workspaces"
                )
            await connection.execute(delete(_w).where(_w.c.rule_id == rule_id))
            await _enable(core, connection, by, rule_id, request.workspace_id)
        elif request.applies_to_all_workspaces is False and not enabled:
            raise ApiError("invalid_request_error", "applies_to_all_workspaces: no workspace would be left")
        await named.change(core, connection, _t, by, row, **wanted)
        await audit.record(core, connection, by, "federation_rule_updated", _told(row))
        return (await _rules(connection, [row]))[0]


async def archive(core: Core, by: Principal, rule_id: str) -> Rule:
    """End it; tokens it gave stay good until their time. Again: the record as it is."""
    async with core.database.write() as connection:
        row = await named.find(connection, _t, by.organization_id, rule_id, KIND)
        if row["archived_at"] is None:
            grants.refuse_scope_by_workload(by, row["oauth_scope"])
            await connection.execute(delete(_w).where(_w.c.rule_id == rule_id))
            await named.change(core, connection, _t, by, row, archived_at=core.now(), archived_by=by.id)
            await audit.record(core, connection, by, "federation_rule_archived", {"federation_rule_id": rule_id})
        return (await _rules(connection, [row]))[0]


# --- workspaces ------------------------------------------------------------------------------------------------------------


async def list_workspaces(core: Core, by: Principal, rule_id: str) -> RuleWorkspaceList:
    """The workspaces a rule is enabled for, newest first."""
    w = tables.workspaces
    async with core.database.read() as connection:
        await named.find(connection, _t, by.organization_id, rule_id, KIND)
        query = select(_w, w.c.name).join(w, w.c.id == _w.c.workspace_id).where(_w.c.rule_id == rule_id)
        rows = (await connection.execute(query.order_by(_w.c.created_at.desc()))).mappings()
        return RuleWorkspaceList(data=tuple(_rule_workspace(row, row["name"]) for row in rows))


async def add_workspace(core: Core, by: Principal, rule_id: str, workspace_id: str) -> RuleWorkspace:
    """Enable a rule for one more workspace. Again: as it is."""
    async with core.database.write() as connection:
        rule = await named.find_live(connection, _t, by.organization_id, rule_id, KIND)
        grants.refuse_scope(by, rule["oauth_scope"])
        query = select(_w).where(_w.c.rule_id == rule_id, _w.c.workspace_id == workspace_id)
        row: Any = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            row = await _enable(core, connection, by, rule_id, workspace_id)
            added = {"federation_rule_id": rule_id, "workspace_id": workspace_id}
            await audit.record(core, connection, by, "federation_rule_workspace_added", added)
        return _rule_workspace(row, None)


async def remove_workspace(core: Core, by: Principal, rule_id: str, workspace_id: str) -> None:
    """Disable a rule for a workspace, if it was enabled."""
    async with core.database.write() as connection:
        rule = await named.find_live(connection, _t, by.organization_id, rule_id, KIND)
        grants.refuse_scope_by_workload(by, rule["oauth_scope"])
        query = delete(_w).where(_w.c.rule_id == rule_id, _w.c.workspace_id == workspace_id)
        if (await connection.execute(query)).rowcount:
            removed = {"federation_rule_id": rule_id, "workspace_id": workspace_id}
            await audit.record(core, connection, by, "federation_rule_workspace_removed", removed)


async def _enable(core: Core, connection: AsyncConnection, by: Principal, rule_id: str, workspace_id: str) -> dict[str, Any]:
    try:
        await workspaces.find_live(connection, by.organization_id, workspace_id)
    except ApiError as exc:
        raise ApiError("invalid_request_error", "workspace_id: no live workspace of this organization") from exc
    row = {"rule_id": rule_id, "workspace_id": workspace_id, "created_at": core.now(), "created_by": by.id}
    await connection.execute(insert(_w).values(row))
    return row


async def _workspace_ids(connection: AsyncConnection, rule_id: str) -> list[str]:
    query = select(_w.c.workspace_id).where(_w.c.rule_id == rule_id).order_by(_w.c.created_at, _w.c.workspace_id)
    return list((await connection.execute(query)).scalars())


# --- what a rule must be ---------------------------------------------------------------------------------------------------


async def _refuse_no_match(match: RuleMatch) -> None:
    # Before the transaction: a condition is evaluated for it, and writers do not wait for that.
    if (problem := await matching.problem_of(match)) is not None:
        raise ApiError("invalid_request_error", problem)


async def _check(connection: AsyncConnection, by: Principal, row: Mapping[str, Any]) -> None:
    match = RuleMatch.model_validate_json(row["match"])
    issuer = await _referred(connection, _i, by, row["issuer_id"], "issuer_id", issuers.KIND)
    account = await _referred(connection, _s, by, row["service_account_id"], "target.service_account_id", service_accounts.KIND)
    if (problem := tenants.problem_of(issuer["issuer_url"], match)) is not None:
        raise ApiError("invalid_request_error", problem)
    granted = set(row["oauth_scope"].split())
    if unknown := granted - scopes.PUBLISHED:
        raise ApiError("invalid_request_error", f"oauth_scope: {min(unknown)[:100]} is not a scope")
    if not granted:
        raise ApiError("invalid_request_error", "oauth_scope: at least one scope is required")
    if scopes.ADMIN in granted and account["organization_role"] != "admin":
        raise ApiError("invalid_request_error", "oauth_scope: org:admin needs a service account with organization_role admin")
    grants.refuse_scope(by, row["oauth_scope"])


async def _referred(
    connection: AsyncConnection, table: Any, by: Principal, what_id: str, field: str, kind: str
) -> dict[str, Any]:
    try:
        return await named.find_live(connection, table, by.organization_id, what_id, kind)
    except ApiError as exc:
        raise ApiError("invalid_request_error", f"{field}: no live {kind} of this organization") from exc


async def _rules(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    # Three questions, however many rules: a page of a hundred is asked for as cheaply as one.
    issuers_named = await _names(connection, _i, {row["issuer_id"] for row in rows})
    accounts_named = await _names(connection, _s, {row["service_account_id"] for row in rows})
    query = select(_w.c.rule_id, _w.c.workspace_id).where(_w.c.rule_id.in_([row["id"] for row in rows]))
    places: defaultdict[str, list[str]] = defaultdict(list)
    for rule_id, workspace_id in await connection.execute(query.order_by(_w.c.created_at, _w.c.workspace_id)):
        places[rule_id].append(workspace_id)
    made: list[Rule] = []
    for row in rows:
        enabled = places[row["id"]]
        made.append(
            Rule(
                id=row["id"],
                name=row["name"],
                description=row["description"],
                issuer_id=row["issuer_id"],
                issuer_name=issuers_named[row["issuer_id"]],
                match=RuleMatch.model_validate(json.loads(row["match"])),
                target=RuleTarget(
                    type="service_account",
                    service_account_id=row["service_account_id"],
                    service_account_name=accounts_named[row["service_account_id"]],
                ),
                oauth_scope=row["oauth_scope"],
                token_lifetime_seconds=row["token_lifetime_seconds"],
                workspace_id=enabled[0] if len(enabled) == 1 else None,
                workspace_ids=tuple(enabled),
                applies_to_all_workspaces=row["applies_to_all_workspaces"],
                **named.told(row),
            )
        )
    return tuple(made)


async def _names(connection: AsyncConnection, table: Table, ids_wanted: set[str]) -> dict[str, str]:
    query = select(table.c.id, table.c.name).where(table.c.id.in_(ids_wanted))
    return {row.id: row.name for row in await connection.execute(query)}


def _told(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "federation_rule_id": row["id"],
        "name": row["name"],
        "federation_issuer_id": row["issuer_id"],
        "service_account_id": row["service_account_id"],
        "oauth_scope": row["oauth_scope"],
    }


def _rule_workspace(row: Mapping[Any, Any], name: str | None) -> RuleWorkspace:
    return RuleWorkspace(
        federation_rule_id=row["rule_id"],
        workspace_id=row["workspace_id"],
        workspace_name=name,
        created_at=row["created_at"],
        created_by_actor_id=row["created_by"],
    )
