"""The CA certificates of a tunnel: at most two active ones, each obeying every published rule when it is registered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, insert, or_, select, update

from penstock import ids
from penstock.control.errors import ApiError
from penstock.control.service import audit, tunnels
from penstock.control.service.pages import Page, cut, position
from penstock.control.service.tunnels import Reach
from penstock.control.storage import tables
from penstock.control.storage.database import FeedChanges, advance_feed, lock_organization
from penstock.errors import CertificateError
from penstock.schema.tunnels import TunnelCertificate
from penstock.tls.rules import CaCertificate, check_ca_certificate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_c = tables.certificates


async def register(core: Core, key: Principal, tunnel_id: str, pem: str, reach: Reach = Reach.WORKSPACE) -> TunnelCertificate:
    """Register a CA. Raises ApiError that names the rule it breaks, the slot that is missing or the twin that is there."""
    try:
        checked = check_ca_certificate(pem, core.now())
    except CertificateError as exc:
        message = f"ca_certificate_pem: {exc.public} ({exc.rule})"
        raise ApiError("invalid_request_error", message, detail=exc.detail, hint=exc.hint) from exc
    async with core.database.write() as connection:
        await lock_organization(connection, key.organization_id)
        row = await tunnels.find(connection, key, tunnel_id, reach)
        if row["archived_at"] is not None:
            raise ApiError("conflict_error", "the tunnel is archived", hint="create a new tunnel")
        await _refuse_without_slot(core, connection, tunnel_id, checked)
        values: dict[str, Any] = {
            "id": core.new_id(ids.CERTIFICATE),
            "tunnel_id": tunnel_id,
            "pem": checked.pem,
            "fingerprint": checked.fingerprint,
            "created_at": core.now(),
            "expires_at": checked.expires_at,
            "archived_at": None,
        }
        await connection.execute(insert(_c).values(values))
        await advance_feed(connection, FeedChanges.of_tunnel(row["wire_id"]))
        added = {"tunnel_id": tunnel_id, "certificate_id": values["id"], "certificate_fingerprint": checked.fingerprint}
        await audit.record(core, connection, key, "tunnel_certificate_added", added)
    return _certificate(values)


async def list_page(
    core: Core,
    key: Principal,
    tunnel_id: str,
    *,
    include_archived: bool,
    limit: int,
    cursor: str | None,
    reach: Reach = Reach.WORKSPACE,
) -> Page[TunnelCertificate]:
    """Newest first."""
    query = select(_c).where(_c.c.tunnel_id == tunnel_id)
    if not include_archived:
        query = query.where(_c.c.archived_at.is_(None))
    if cursor is not None:
        at, last = position(cursor)
        query = query.where(or_(_c.c.created_at < at, and_(_c.c.created_at == at, _c.c.id < last)))
    async with core.database.read() as connection:
        await tunnels.find(connection, key, tunnel_id, reach)
        rows = (await connection.execute(query.order_by(_c.c.created_at.desc(), _c.c.id.desc()).limit(limit + 1))).mappings()
        return cut([_certificate(dict(row)) for row in rows], limit)


async def get(
    core: Core, key: Principal, tunnel_id: str, certificate_id: str, reach: Reach = Reach.WORKSPACE
) -> TunnelCertificate:
    """One certificate of a tunnel, archived or not; ApiError 404 for any other."""
    async with core.database.read() as connection:
        await tunnels.find(connection, key, tunnel_id, reach)
        return _certificate(await _find(connection, tunnel_id, certificate_id))


async def archive(
    core: Core, key: Principal, tunnel_id: str, certificate_id: str, reach: Reach = Reach.WORKSPACE
) -> TunnelCertificate:
    """Trust a CA no longer; with the last one gone callers are refused. Again on an archived one: the record as it is."""
    async with core.database.write() as connection:
        tunnel = await tunnels.find(connection, key, tunnel_id, reach)
        row = dict(await _find(connection, tunnel_id, certificate_id))
        if row["archived_at"] is None:
            row["archived_at"] = core.now()
            await connection.execute(update(_c).where(_c.c.id == certificate_id).values(archived_at=row["archived_at"]))
            await advance_feed(connection, FeedChanges.of_tunnel(tunnel["wire_id"]))
            gone = {"tunnel_id": tunnel_id, "certificate_id": certificate_id, "certificate_fingerprint": row["fingerprint"]}
            await audit.record(core, connection, key, "tunnel_certificate_revoked", gone)
    return _certificate(row)


async def _find(connection: AsyncConnection, tunnel_id: str, certificate_id: str) -> Mapping[str, Any]:
    query = select(_c).where(_c.c.id == certificate_id, _c.c.tunnel_id == tunnel_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise ApiError("not_found_error", "certificate not found")
    return dict(row)


async def _refuse_without_slot(core: Core, connection: AsyncConnection, tunnel_id: str, new: CaCertificate) -> None:
    active = and_(_c.c.tunnel_id == tunnel_id, _c.c.archived_at.is_(None))
    if (await connection.execute(select(_c.c.id).where(active, _c.c.fingerprint == new.fingerprint))).first() is not None:
        raise ApiError(
            "conflict_error", "this certificate is already registered on the tunnel", hint="list the tunnel's certificates"
        )
    limit = core.config.limits.certificates_per_tunnel
    if (await connection.execute(select(func.count()).where(active))).scalar_one() >= limit:
        raise ApiError(
            "invalid_request_error",
            f"Tunnel already has the maximum of {limit} non-archived certificates",
            hint="archive one of them first",
        )


def _certificate(row: Mapping[str, Any]) -> TunnelCertificate:
    names = ("id", "archived_at", "created_at", "expires_at", "fingerprint", "tunnel_id")
    return TunnelCertificate.model_validate({name: row[name] for name in names})
