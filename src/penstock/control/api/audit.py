"""The audit log over HTTP: an organization's admins read their organization's records, platform operators everyone's."""

# ruff: noqa: TC001, TC003 - FastAPI reads the annotations at run time

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from penstock.control.api.conditions import ByAnyone, CoreOf, require
from penstock.control.api.routes import LateRoute
from penstock.control.auth import scopes
from penstock.control.auth.principals import Operator
from penstock.control.errors import ApiError
from penstock.control.service import audit_log
from penstock.control.service.audit_log import Filters
from penstock.control.service.core import Core
from penstock.schema.audit import ActivityPage

router: Final = APIRouter(prefix="/penstock/v1/audit", route_class=LateRoute)

_Id = Annotated[str | None, Query(max_length=300)]


async def _filters(
    by: ByAnyone,
    types: Annotated[list[str] | None, Query(alias="type", max_length=100)] = None,
    organization_id: _Id = None,
    actor_id: _Id = None,
    subject_id: _Id = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Filters:
    if not isinstance(by, Operator):
        own = require(by, scopes.ADMIN).organization_id
        if organization_id not in {None, own}:
            raise ApiError("permission_error", "organization_id: not your organization")
        organization_id = own
    for time in (created_after, created_before):
        if time is not None and time.tzinfo is None:
            raise ApiError("invalid_request_error", "created_after, created_before: a time needs its zone, as in …Z")
    return Filters(tuple(types or ()), organization_id, actor_id, subject_id, created_after, created_before)


@router.get("/activities")
async def activities(
    core: CoreOf,
    filters: Annotated[Filters, Depends(_filters)],
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    page: str | None = None,
) -> ActivityPage:
    """Activities, newest first."""
    return await audit_log.list_page(core, filters, limit=limit, cursor=page)


@router.get("/export", response_class=StreamingResponse, responses={200: {"content": {"application/jsonl": {}}}})
async def export(core: CoreOf, filters: Annotated[Filters, Depends(_filters)]) -> StreamingResponse:
    """Activities as JSON lines, oldest first."""
    audit_log.check(filters)
    return StreamingResponse(_lines(core, filters), media_type="application/jsonl")


async def _lines(core: Core, filters: Filters) -> AsyncGenerator[str]:
    async for line in audit_log.export(core, filters):
        yield line + "\n"
