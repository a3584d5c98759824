"""Live links of a workspace's tunnels, as edges told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, or_, select

from penstock.control.service import tunnels
from penstock.control.service.pages import Page, cut, position
from penstock.control.storage import presence, tables
from penstock.schema.links import Link

if TYPE_CHECKING:
    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_k, _l, _t, _e = presence.links, presence.leases, tables.tunnels, tables.edges
_COLUMNS: Final = (
    _k.c.id,
    _t.c.id.label("tunnel_id"),
    _k.c.connector_id.label("agent_id"),
    _k.c.version,
    _e.c.name.label("edge"),
    _k.c.since,
    _k.c.streams,
    _k.c.to_agent_bytes,
    _k.c.from_agent_bytes,
)


async def list_live(core: Core, key: Principal, *, tunnel_id: str | None, limit: int, cursor: str | None) -> Page[Link]:
    """Links under a lease that holds, newest first; of one tunnel, or of all in the key's workspace. ApiError 404."""
    if tunnel_id is not None:
        await tunnels.get(core, key, tunnel_id)
    query = select(*_COLUMNS).join(_l, _l.c.incarnation == _k.c.incarnation).join(_e, _e.c.id == _l.c.edge_id)
    query = query.join(_t, _t.c.wire_id == _k.c.wire_id).where(_l.c.expires_at > core.now())
    query = query.where(_t.c.workspace_id == key.workspace_id, _t.c.organization_id == key.organization_id)
    if tunnel_id is not None:
        query = query.where(_t.c.id == tunnel_id)
    if cursor is not None:
        at, last = position(cursor)
        query = query.where(or_(_k.c.since < at, and_(_k.c.since == at, _k.c.id < last)))
    async with core.database.read() as connection:
        rows = await connection.execute(query.order_by(_k.c.since.desc(), _k.c.id.desc()).limit(limit + 1))
        return cut([Link.model_validate(row, from_attributes=True) for row in rows], limit)
