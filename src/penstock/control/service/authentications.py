"""The authentication history: every exchange that named one of the organization's rules, and why it was denied."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select

from penstock import ids
from penstock.control.service.pages import read_page
from penstock.control.storage import identities
from penstock.schema.federation import Authentication, AuthenticationPage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_t = identities.authentications
_SUBJECT = 500


async def write(core: Core, connection: AsyncConnection, rule: Mapping[str, Any], **fields: Any) -> None:
    """One more line; the oldest go when they are too old or too many."""
    now, settings = core.now(), core.config.federation
    organization_id = rule["organization_id"]
    subject: str | None = fields.pop("subject", None)
    values = {
        "id": core.new_id(ids.AUTHENTICATION),
        "organization_id": organization_id,
        "created_at": now,
        "rule_id": rule["id"],
        "issuer_id": rule["issuer_id"],
        "service_account_id": rule["service_account_id"],
        "subject": subject[:_SUBJECT] if subject is not None else None,
        **fields,
    }
    of_organization = _t.c.organization_id == organization_id
    newest_first = select(_t.c.created_at).where(of_organization).order_by(_t.c.created_at.desc(), _t.c.id.desc())
    first_too_many = await connection.execute(newest_first.offset(settings.history_length - 1).limit(1))
    oldest = now - timedelta(seconds=settings.history)
    if (at := first_too_many.scalar_one_or_none()) is not None:
        oldest = max(oldest, at)
    await connection.execute(delete(_t).where(of_organization, _t.c.created_at <= oldest))
    await connection.execute(insert(_t).values(values))


async def list_page(
    core: Core, by: Principal, *, rule_id: str | None, outcome: str | None, limit: int, cursor: str | None
) -> AuthenticationPage:
    """Newest first."""
    query = select(_t).where(_t.c.organization_id == by.organization_id)
    if rule_id is not None:
        query = query.where(_t.c.rule_id == rule_id)
    if outcome is not None:
        query = query.where(_t.c.outcome == outcome)
    async with core.database.read() as connection:
        rows, following = await read_page(connection, query, _t, limit=limit, cursor=cursor)
    return AuthenticationPage(data=tuple(_authentication(row) for row in rows), next_page=following)


def _authentication(row: Mapping[Any, Any]) -> Authentication:
    names = ("id", "created_at", "outcome", "reason", "detail", "subject", "service_account_id", "workspace_id", "token_id")
    return Authentication(
        federation_issuer_id=row["issuer_id"],
        federation_rule_id=row["rule_id"],
        **{name: row[name] for name in names},
    )
