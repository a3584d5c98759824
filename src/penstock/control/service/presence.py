"""Where tunnels are: edges report their links and renew a lease; callers and other edges are told who holds what.

Presence is a hint. An edge that died is listed until its lease runs out, so whoever is sent there and refused goes on to the
next one; an edge that nobody lists may still hold a tunnel.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from penstock.control.errors import ApiError
from penstock.control.storage import presence, tables
from penstock.schema.edges import PresenceAnswer

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Edge
    from penstock.control.service.core import Core
    from penstock.schema.edges import PresenceReport

_LEASE: Final = timedelta(seconds=10)  # three renewals and a bit: one lost request ends nothing
_l, _k, _e = presence.leases, presence.links, tables.edges


async def report(core: Core, edge: Edge, said: PresenceReport) -> PresenceAnswer:
    """Renew the lease of an edge's incarnation, take over its links if they changed, and tell who else holds what.

    `is_known` False: the lease had run out, and the links have to be told anew.
    """
    now = core.now()
    async with core.database.write() as connection:
        await connection.execute(delete(_l).where(_l.c.expires_at <= now))
        values = {"is_draining": said.is_draining, "expires_at": now + _LEASE}
        renewed = update(_l).where(_l.c.incarnation == said.incarnation, _l.c.edge_id == edge.id).values(**values)
        is_known = bool((await connection.execute(renewed)).rowcount)
        if not is_known:
            taken = await connection.execute(select(_l.c.edge_id).where(_l.c.incarnation == said.incarnation))
            if taken.one_or_none() is not None:
                raise ApiError("conflict_error", "incarnation: it is another edge's")
            await connection.execute(insert(_l).values(incarnation=said.incarnation, edge_id=edge.id, **values))
        if said.links is not None:
            await connection.execute(delete(_k).where(_k.c.incarnation == said.incarnation))
            by_id = {link.id: link.model_dump() for link in said.links}  # one told twice is one
            rows = [{"incarnation": said.incarnation, **link} for link in by_id.values()]
            if rows:
                await connection.execute(insert(_k), rows)
        if said.usage:
            values = [{"of": said.incarnation, "link": usage.id, **usage.model_dump(exclude={"id"})} for usage in said.usage]
            told = update(_k).where(_k.c.incarnation == bindparam("of"), _k.c.id == bindparam("link"))
            await connection.execute(told, values)
        holders = await _holders(connection, now, besides=said.incarnation)
    return PresenceAnswer(is_known=is_known or said.links is not None, holders=holders)


async def withdraw(core: Core, edge: Edge, incarnation: str) -> None:
    """An edge that stops takes its links along, rather than letting the lease run out."""
    async with core.database.write() as connection:
        await connection.execute(delete(_l).where(_l.c.incarnation == incarnation, _l.c.edge_id == edge.id))


async def lives(connection: AsyncConnection, edge_id: str, now: datetime) -> bool:
    """Whether a process of this edge was heard so lately that its lease is current."""
    lease = select(_l.c.incarnation).where(_l.c.edge_id == edge_id, _l.c.expires_at > now)
    return (await connection.execute(lease.limit(1))).first() is not None


async def ranks(connection: AsyncConnection, wire_id: str, now: datetime) -> dict[str, int]:
    """How good each live edge is for a tunnel's callers, by edge id: 0 holds it, 1 lives. Others are not in it."""
    live = select(_l.c.edge_id, func.count(_k.c.id).label("links"))
    live = live.outerjoin(_k, (_k.c.incarnation == _l.c.incarnation) & (_k.c.wire_id == wire_id))
    live = live.where(_l.c.expires_at > now, _l.c.is_draining.is_(False)).group_by(_l.c.edge_id)
    return {row.edge_id: 0 if row.links else 1 for row in await connection.execute(live)}


async def _holders(connection: AsyncConnection, now: datetime, *, besides: str) -> dict[str, tuple[str, ...]]:
    query = (
        select(_k.c.wire_id, _e.c.name)
        .distinct()
        .join(_l, _l.c.incarnation == _k.c.incarnation)
        .join(_e, _e.c.id == _l.c.edge_id)
        .where(_l.c.expires_at > now, _l.c.is_draining.is_(False), _l.c.incarnation != besides)
        .order_by(_k.c.wire_id, _e.c.name)
    )
    found: defaultdict[str, list[str]] = defaultdict(list)
    for wire_id, name in await connection.execute(query):
        found[wire_id].append(name)
    return {wire_id: tuple(names) for wire_id, names in found.items()}
