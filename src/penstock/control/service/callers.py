"""Callers' certificates: a request in, a certificate of a day out, and its serial in the feed until it ends."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, insert, or_, select

from penstock.control.errors import ApiError
from penstock.control.service import audit, pages, roots
from penstock.control.storage import tables
from penstock.control.storage.database import FeedChanges, advance_feed, lock_organization
from penstock.errors import IdentityError
from penstock.schema.callers import (
    CallerCertificate,
    CallerCertificateInfo,
    CallerCertificatePage,
    CallerCertificateRevoked,
)
from penstock.tls import certs
from penstock.tls.names import caller_uri

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.auth.principals import Principal
    from penstock.control.service.core import Core

_c = tables.caller_certificates


def kept_since(core: Core) -> datetime:
    """When a certificate must have run out to leave the feed: a life ago. Its streams go on so long, or end with its holder."""
    return core.now() - timedelta(seconds=core.config.caller_certificate_lifetime)


async def issue(core: Core, key: Principal, csr_pem: str) -> CallerCertificate:
    """A client certificate for the caller behind a credential. Every name in it is ours; the request gives only the key."""
    try:
        public_key = certs.load_csr(csr_pem)
    except IdentityError as exc:
        raise ApiError("invalid_request_error", f"csr_pem: {exc.public}", detail=exc.detail, hint=exc.hint) from exc
    now = core.now()
    # Whole seconds, as certificates have them: the feed must not outlive or fall short of the certificate.
    expires_at = (now + timedelta(seconds=core.config.caller_certificate_lifetime)).replace(microsecond=0)
    async with core.database.write() as connection:
        await lock_organization(connection, key.organization_id)
        await _make_room(core, connection, key.id, now)
        authority = await roots.caller_ca(core, connection, key.organization_id)
        certificate = certs.issue_client(
            authority,
            public_key,
            name=key.caller_id,
            uri=caller_uri(key.organization_id, key.workspace_id, key.caller_id),
            validity=certs.Validity(now - certs.CLOCK_SKEW, expires_at),
            serial=core.new_serial(),
        )
        await connection.execute(
            insert(_c).values(
                serial=certs.serial_hex(certificate),
                caller_id=key.caller_id,
                organization_id=key.organization_id,
                workspace_id=key.workspace_id,
                holder_id=key.id,
                created_at=now,
                expires_at=expires_at,
            )
        )
        await advance_feed(connection, FeedChanges.of_caller(certs.serial_hex(certificate)))
        issued = {
            "caller_id": key.caller_id,
            "workspace_id": key.workspace_id,
            "serial": certs.serial_hex(certificate),
            "expires_at": expires_at,
        }
        await audit.record(core, connection, key, "caller_certificate_issued", issued)
    return CallerCertificate(
        caller_id=key.caller_id,
        organization_id=key.organization_id,
        workspace_id=key.workspace_id,
        certificate_pem=certs.certificate_to_pem(certificate),
        expires_at=expires_at,
    )


async def list_page(core: Core, by: Principal, *, limit: int, cursor: str | None) -> CallerCertificatePage:
    """The organization's live certificates, newest first."""
    query = select(_c).where(_c.c.organization_id == by.organization_id, _c.c.expires_at > core.now())
    if cursor is not None:
        when, serial = pages.position(cursor)
        query = query.where(or_(_c.c.created_at < when, and_(_c.c.created_at == when, _c.c.serial < serial)))
    newest = query.order_by(_c.c.created_at.desc(), _c.c.serial.desc()).limit(limit + 1)
    async with core.database.read() as connection:
        rows = (await connection.execute(newest)).mappings().all()
    page = pages.cut([CallerCertificateInfo.model_validate({**row, "id": row["serial"]}) for row in rows], limit)
    return CallerCertificatePage(data=page.data, next_page=page.next_page)


async def revoke(core: Core, by: Principal, serial: str) -> CallerCertificateRevoked:
    """End one certificate: edges refuse it as soon as they hear. Whoever holds the credential behind it may get another."""
    found = delete(_c).where(_c.c.serial == serial, _c.c.organization_id == by.organization_id, _c.c.expires_at > core.now())
    async with core.database.write() as connection:
        row = (await connection.execute(found.returning(_c.c.caller_id, _c.c.workspace_id))).one_or_none()
        if row is None:
            raise ApiError("not_found_error", "caller certificate not found")
        await advance_feed(connection, FeedChanges.of_caller(serial))
        revoked = {"caller_id": row.caller_id, "workspace_id": row.workspace_id, "serial": serial}
        await audit.record(core, connection, by, "caller_certificate_revoked", revoked)
    return CallerCertificateRevoked(id=serial)


async def authority_pem(core: Core, key: Principal) -> str:
    """What a proxy of this organization needs to know its callers."""
    async with core.database.read() as connection:
        return await roots.caller_ca_pem(connection, key.organization_id)


async def _make_room(core: Core, connection: AsyncConnection, holder_id: str, now: datetime) -> None:
    # What ran out a while ago is in no snapshot any more; here is where it leaves the table.
    await connection.execute(delete(_c).where(_c.c.expires_at <= kept_since(core)))
    limit = core.config.limits.certificates_per_caller
    live = select(func.count()).where(_c.c.holder_id == holder_id, _c.c.expires_at > now)
    if (await connection.execute(live)).scalar_one() >= limit:
        raise ApiError(
            "rate_limit_error",
            f"this identity holds {limit} live caller certificates already",
            hint="let processes keep their certificate until it ends, or give each its own key",
        )
