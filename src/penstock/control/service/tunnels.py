"""Tunnels: create, look up, list, archive, reveal and rotate the token, resolve a host.

All within the reach of the credential that asks: its workspace, or in the API's launch edition its organization.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import and_, func, insert, or_, select, update

from penstock import ids
from penstock.control.errors import ApiError
from penstock.control.service import audit, presence, roots
from penstock.control.service.pages import Page, cut, position
from penstock.control.storage import tables
from penstock.control.storage.database import FeedChanges, advance_feed, lock_organization
from penstock.control.storage.vault import Cell
from penstock.protocol.token import MAX_EDGES
from penstock.protocol.token import TunnelToken as AgentToken
from penstock.schema.callers import EdgeAddress, Resolution
from penstock.schema.tunnels import LaunchTunnel, Tunnel, TunnelToken
from penstock.secret import Secret
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_LABEL: Final = 8  # as published: 36^8 names, and no two tunnels ever share one
_SECRET: Final = 32
UNHEARD: Final = 2  # the rank of an edge without a live lease

_t = tables.tunnels
_described = select(_t, tables.workspaces.c.is_default).join(tables.workspaces, tables.workspaces.c.id == _t.c.workspace_id)


class Reach(Enum):
    """Which tunnels a credential is asked about."""

    WORKSPACE = "workspace"
    ORGANIZATION = "organization"

    def of(self, key: Principal) -> ColumnElement[bool]:
        """The condition on a tunnel's row."""
        if self is Reach.WORKSPACE:
            return _t.c.workspace_id == key.workspace_id
        return _t.c.organization_id == key.organization_id


async def create(core: Core, key: Principal, display_name: str | None) -> Tunnel:
    """A new tunnel with a domain that nobody ever had. Raises ApiError at the organization's limit."""
    async with core.database.write() as connection:
        await lock_organization(connection, key.organization_id)
        await _refuse_over_limit(core, connection, key.organization_id)
        tunnel_id, wire_id, secret = (
            core.new_id(ids.TUNNEL),
            str(UUID(bytes=core.entropy(16), version=4)),
            core.entropy(_SECRET),
        )
        row: dict[str, Any] = {
            "id": tunnel_id,
            "organization_id": key.organization_id,
            "workspace_id": key.workspace_id,
            "wire_id": wire_id,
            "domain": await _free_domain(core, connection),
            "display_name": display_name,
            "sealed_secret": core.vault.seal(secret, _cell(tunnel_id, key.organization_id)),
            "verifier": hashlib.sha256(secret).hexdigest(),
            "token_id": _token_id(wire_id, secret),
            "created_at": core.now(),
            "archived_at": None,
        }
        await connection.execute(insert(_t).values(row))
        await advance_feed(connection, FeedChanges.of_tunnel(wire_id))
        await audit.record(core, connection, key, "tunnel_created", {"tunnel_id": tunnel_id})
    return _tunnel(row)


async def get(core: Core, key: Principal, tunnel_id: str, reach: Reach = Reach.WORKSPACE) -> LaunchTunnel:
    """One tunnel within reach; ApiError 404 for any other, whether it exists or not."""
    async with core.database.read() as connection:
        return _tunnel(await find(connection, key, tunnel_id, reach))


async def list_page(
    core: Core,
    key: Principal,
    *,
    include_archived: bool,
    limit: int,
    cursor: str | None,
    reach: Reach = Reach.WORKSPACE,
    workspace_id: str | None = None,
) -> Page[LaunchTunnel]:
    """Newest first; of one workspace where one is named."""
    query = _described.where(reach.of(key))
    if workspace_id is not None:
        query = query.where(_t.c.workspace_id == workspace_id)
    if not include_archived:
        query = query.where(_t.c.archived_at.is_(None))
    if cursor is not None:
        at, last = position(cursor)
        query = query.where(or_(_t.c.created_at < at, and_(_t.c.created_at == at, _t.c.id < last)))
    async with core.database.read() as connection:
        rows = (await connection.execute(query.order_by(_t.c.created_at.desc(), _t.c.id.desc()).limit(limit + 1))).mappings()
        return cut([_tunnel(dict(row)) for row in rows], limit)


async def archive(core: Core, key: Principal, tunnel_id: str, reach: Reach = Reach.WORKSPACE) -> LaunchTunnel:
    """Retire a tunnel with its certificates and its token, for ever. Again on an archived one: the record as it is."""
    async with core.database.write() as connection:
        row = dict(await find(connection, key, tunnel_id, reach))
        if row["archived_at"] is None:
            row["archived_at"] = core.now()
            await connection.execute(update(_t).where(_t.c.id == tunnel_id).values(archived_at=row["archived_at"]))
            c = tables.certificates
            await connection.execute(
                update(c).where(c.c.tunnel_id == tunnel_id, c.c.archived_at.is_(None)).values(archived_at=row["archived_at"])
            )
            await advance_feed(connection, FeedChanges.of_tunnel(row["wire_id"]))
            await audit.record(core, connection, key, "tunnel_archived", {"tunnel_id": tunnel_id})
    return _tunnel(row)


async def reveal_token(core: Core, key: Principal, tunnel_id: str, reach: Reach = Reach.WORKSPACE) -> TunnelToken:
    """The agent's token: the same value until it is rotated."""
    async with core.database.write() as connection:  # for the audit record
        row = await _with_token(connection, key, tunnel_id, reach)
        secret = core.vault.open(row["sealed_secret"], _cell(tunnel_id, key.organization_id))
        seen = {"tunnel_id": tunnel_id, "tunnel_token_id": row["token_id"]}
        await audit.record(core, connection, key, "tunnel_token_revealed", seen)
        return await _token(connection, row, secret)


async def rotate_token(
    core: Core, key: Principal, tunnel_id: str, reason: str | None, reach: Reach = Reach.WORKSPACE
) -> TunnelToken:
    """A fresh token. The old value opens no new link from now on; links that it opened stay, as published.

    Where the platform has an overlap, the old value goes on registering for that long, and the one before it ends.
    """
    async with core.database.write() as connection:
        await lock_organization(connection, key.organization_id)  # two at once: the second rotates the first one's token
        row = await _with_token(connection, key, tunnel_id, reach)
        secret = core.entropy(_SECRET)
        changed = {
            "sealed_secret": core.vault.seal(secret, _cell(tunnel_id, key.organization_id)),
            "verifier": hashlib.sha256(secret).hexdigest(),
            "token_id": _token_id(row["wire_id"], secret),
            **_retiring(core, row["verifier"]),
        }
        await connection.execute(update(_t).where(_t.c.id == tunnel_id).values(changed))
        await advance_feed(connection, FeedChanges.of_tunnel(row["wire_id"]))
        done = {"tunnel_id": tunnel_id, "tunnel_token_id": changed["token_id"], "reason": reason}
        await audit.record(core, connection, key, "tunnel_token_rotated", done)
        return await _token(connection, {**row, **changed}, secret)


def _retiring(core: Core, verifier: str) -> dict[str, Any]:
    overlap = core.config.rotation_overlap
    if not overlap:
        return {"retiring_verifier": None, "retiring_until": None}
    return {"retiring_verifier": verifier, "retiring_until": core.now() + timedelta(seconds=overlap)}


async def _with_token(connection: AsyncConnection, key: Principal, tunnel_id: str, reach: Reach) -> Mapping[str, Any]:
    row = await find(connection, key, tunnel_id, reach)
    if row["archived_at"] is not None:
        raise ApiError("conflict_error", "the tunnel is archived; it has no token any more", hint="create a new tunnel")
    return row


async def _token(connection: AsyncConnection, row: Mapping[str, Any], secret: bytes) -> TunnelToken:
    """The published members, and where and by which CA our agents find the edges."""
    query = select(tables.edges.c.agent_address).order_by(tables.edges.c.name)
    addresses = (await connection.execute(query)).scalars().all()
    token = AgentToken(
        account=account(row["organization_id"]),
        tunnel_id=UUID(row["wire_id"]),
        secret=Secret(base64.b64encode(secret).decode()),
        edges=tuple(dict.fromkeys(addresses))[:MAX_EDGES],
        cas=(certs.certificate_to_der(certs.load_certificate(await roots.edge_ca_pem(connection))),),
    )
    return TunnelToken(id=row["token_id"], tunnel_token=token.encode().reveal())


async def resolve(core: Core, key: Principal, host: str) -> Resolution:
    """How to reach the tunnel a host belongs to, and whom to trust there. `host` is a normalized name."""
    # The domain itself, or one label below it: what a wildcard certificate covers.
    candidates = [host, host.partition(".")[2]]
    async with core.database.read() as connection:
        query = select(_t).where(_t.c.domain.in_(candidates), _t.c.workspace_id == key.workspace_id, _t.c.archived_at.is_(None))
        row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise ApiError(
                "not_found_error",
                f"no tunnel of this workspace serves {host}",
                hint="check the URL and the API key's workspace",
            )
        c = tables.certificates
        anchors = await connection.execute(
            select(c.c.pem).where(c.c.tunnel_id == row["id"], c.c.archived_at.is_(None)).order_by(c.c.created_at.desc())
        )
        e = tables.edges
        edges = await connection.execute(select(e.c.id, e.c.caller_host, e.c.caller_port, e.c.server_name).order_by(e.c.name))
        ranks = await presence.ranks(connection, row["wire_id"], core.now())
        return Resolution(
            tunnel_id=row["id"],
            domain=row["domain"],
            trust_anchors=tuple(anchors.scalars()),
            edges=tuple(
                EdgeAddress(host=at, port=port, server_name=name, rank=ranks.get(edge_id, UNHEARD))
                for edge_id, at, port, name in edges
            ),
            edge_ca_pem=await roots.edge_ca_pem(connection),
        )


async def find(
    connection: AsyncConnection, key: Principal, tunnel_id: str, reach: Reach = Reach.WORKSPACE
) -> Mapping[str, Any]:
    """The row of a tunnel within reach. Foreign and unknown are the same 404: existence is information."""
    query = _described.where(_t.c.id == tunnel_id, reach.of(key))
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise ApiError("not_found_error", "tunnel not found")
    return dict(row)


async def forget_secret(core: Core, connection: AsyncConnection, tunnel_id: str, organization_id: str) -> None:
    """Put nothing in a secret's place: it is gone, and not merely unreachable."""
    nothing = core.vault.seal(b"", _cell(tunnel_id, organization_id))
    await connection.execute(update(_t).where(_t.c.id == tunnel_id).values(sealed_secret=nothing))


def account(organization_id: str) -> str:
    """What stands for the organization in tokens and registrations: 32 hex digits, as the stock agent expects."""
    return UUID(organization_id).hex


async def _refuse_over_limit(core: Core, connection: AsyncConnection, organization_id: str) -> None:
    limit = core.config.limits.tunnels_per_organization
    query = select(func.count()).where(_t.c.organization_id == organization_id, _t.c.archived_at.is_(None))
    if (await connection.execute(query)).scalar_one() >= limit:
        raise ApiError(
            "invalid_request_error",
            f"Organization already has the maximum of {limit} non-archived Tunnels",  # the published words
            hint="archive a tunnel that is no longer used",
        )


async def _free_domain(core: Core, connection: AsyncConnection) -> str:
    while True:
        domain = f"{_random_label(core)}.{core.config.tunnel_domain}"
        if (await connection.execute(select(_t.c.id).where(_t.c.domain == domain))).one_or_none() is None:
            return domain


def _random_label(core: Core) -> str:
    number = int.from_bytes(core.entropy(16), "big")  # 128 bits over 36^8: the bias is below 2^-80
    letters: list[str] = []
    for _ in range(_LABEL):
        number, index = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[index])
    return "".join(letters)


def _token_id(wire_id: str, secret: bytes) -> str:
    # Stable for a value, new with every value, and not the verifier edges hold.
    return f"{ids.TOKEN}_{hashlib.sha256(b'penstock token id' + wire_id.encode() + secret).hexdigest()}"


def _tunnel(row: Mapping[Any, Any]) -> LaunchTunnel:
    names = ("id", "archived_at", "created_at", "display_name", "domain")
    workspace_id = None if row.get("is_default") else row["workspace_id"]
    return LaunchTunnel.model_validate({**{name: row[name] for name in names}, "workspace_id": workspace_id})


def _cell(tunnel_id: str, organization_id: str) -> Cell:
    return Cell("tunnels", "sealed_secret", tunnel_id, organization_id)
