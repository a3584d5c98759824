"""The audit log: who did what, in one chain that shows every edit, removal and reordering.

A record is written in the transaction of what it tells, so neither is there without the other. Its hash covers the hash
before it; the head (position and hash of the last record, sealed under the master key) shows a cut end.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, select, update

from penstock import ids
from penstock.control.auth import actors
from penstock.control.storage import tables
from penstock.control.storage.vault import Cell
from penstock.schema.audit import ACTIVITIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.actors import Acting
    from penstock.control.service.core import Core

HEAD_CELL: Final = Cell("audit_head", "seal", "1", "")
_SUBJECT: Final = 300  # as the column is wide


async def record(
    core: Core,
    connection: AsyncConnection,
    by: Acting,
    activity: str,
    fields: Mapping[str, Any],
    *,
    organization_id: str | None = None,
) -> None:
    """Write one activity, with exactly the fields `ACTIVITIES` names, in the transaction of what it tells.

    `organization_id` is for principals that have none of their own (an operator acting on an organization).
    """
    names = ACTIVITIES[activity]
    if set(fields) != set(names):
        msg = f"{activity} has the fields {names}, not {tuple(fields)}"
        raise ValueError(msg)
    organization_id = organization_id or by.organization_id
    now, origin = core.now(), actors.origin.get()
    h = tables.audit_head
    head = (await connection.execute(select(h.c.position, h.c.hash).with_for_update())).one()
    body: dict[str, Any] = {
        **{name: _plain(value) for name, value in fields.items()},
        "id": core.new_id(ids.ACTIVITY),
        "type": activity,
        "created_at": moment(now),
        "organization_id": organization_id,
        "organization_uuid": organization_id,
        "actor": {
            "type": by.actor_type,
            "id": by.id,
            "ip_address": origin.ip_address if origin else None,
            "user_agent": origin.user_agent if origin else None,
        },
        "request_id": origin.request_id if origin else None,
        "position": head.position + 1,
        "previous_hash": head.hash,
    }
    text = canonical(body)
    digest = digest_of(text)
    await connection.execute(
        insert(tables.audit).values(
            position=body["position"],
            id=body["id"],
            type=activity,
            created_at=now,
            organization_id=organization_id,
            actor_id=by.id,
            subject_id=subject_of(body),
            body=text,
            hash=digest,
        )
    )
    seal = core.vault.seal(seal_text(body["position"], digest), HEAD_CELL)
    await connection.execute(update(h).values(position=body["position"], hash=digest, seal=seal))


async def reseal(core: Core, connection: AsyncConnection) -> None:
    """Seal the head anew: a commit that tells nothing, for where the time of one would."""
    h = tables.audit_head
    head = (await connection.execute(select(h.c.position, h.c.hash).with_for_update())).one()
    await connection.execute(update(h).values(seal=core.vault.seal(seal_text(head.position, head.hash), HEAD_CELL)))


def canonical(body: dict[str, Any]) -> str:
    """The one spelling of a record that is hashed."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(text: str) -> str:
    """The hash of a record's canonical text, which holds the hash before it."""
    return hashlib.sha256(text.encode()).hexdigest()


def seal_text(position: int, digest: str) -> bytes:
    """What the head's seal holds."""
    return f"{position} {digest}".encode()


def subject_of(body: dict[str, Any]) -> str | None:
    """The thing an activity happened to, for finding it."""
    names = ACTIVITIES.get(body["type"], ())
    return str(body[names[0]])[:_SUBJECT] if names else None


def moment(value: datetime) -> str:
    """A time as records spell it."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    return moment(value) if isinstance(value, datetime) else value
