"""The roots of trust: a caller CA for each organization, the edge CA and the key that signs the feed.

Made once at initialization, sealed in the store, opened for one signature at a time. The theft of the caller CA makes callers,
of the edge CA makes edges (which still read no payload), of the feed key tells edges who may come; all three need the master
key and the database together.
"""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select

from penstock.control.storage import tables
from penstock.control.storage.vault import Cell
from penstock.secret import Secret
from penstock.tls import certs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.service.core import Core

_EDGE_CA: Final = "edge-ca"
_FEED_KEY: Final = "feed-key"
_LIFETIME: Final = timedelta(days=3650)  # rotation with an overlap is the way out; ten years is so that it is never urgent


async def create_platform_roots(core: Core, connection: AsyncConnection) -> None:
    """Make the edge CA and the feed key."""
    await _create_ca(core, connection, _EDGE_CA, "Penstock edge CA", organization_id=None)
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    await _store(core, connection, _FEED_KEY, None, public=public, private=key.private_bytes_raw())


async def create_caller_ca(core: Core, connection: AsyncConnection, organization_id: str) -> None:
    """Make an organization's caller CA."""
    await _create_ca(core, connection, _caller_ca_id(organization_id), "Penstock caller CA", organization_id=organization_id)


async def remove_caller_ca(connection: AsyncConnection, organization_id: str) -> None:
    """Destroy the caller CA of an organization that is deleted."""
    await connection.execute(delete(tables.roots).where(tables.roots.c.id == _caller_ca_id(organization_id)))


async def caller_ca(core: Core, connection: AsyncConnection, organization_id: str) -> certs.Authority:
    """The authority that signs an organization's callers."""
    return await _authority(core, connection, _caller_ca_id(organization_id), organization_id)


async def edge_ca(core: Core, connection: AsyncConnection) -> certs.Authority:
    """The authority that signs edges."""
    return await _authority(core, connection, _EDGE_CA, None)


async def edge_ca_pem(connection: AsyncConnection) -> str:
    """The public half of the edge CA."""
    return await _public(connection, _EDGE_CA)


async def caller_ca_pem(connection: AsyncConnection, organization_id: str) -> str:
    """The public half of one organization's caller CA."""
    return await _public(connection, _caller_ca_id(organization_id))


async def all_caller_cas_pem(connection: AsyncConnection) -> str:
    """The bundle an edge trusts: it serves every organization."""
    query = select(tables.roots.c.public).where(tables.roots.c.organization_id.is_not(None)).order_by(tables.roots.c.id)
    return "".join((await connection.execute(query)).scalars())


async def feed_key(core: Core, connection: AsyncConnection) -> Ed25519PrivateKey:
    """The key that signs snapshots."""
    sealed = (await connection.execute(select(tables.roots.c.sealed_key).where(tables.roots.c.id == _FEED_KEY))).scalar_one()
    return Ed25519PrivateKey.from_private_bytes(core.vault.open(sealed, _cell(_FEED_KEY, None)))


async def feed_public_key(connection: AsyncConnection) -> str:
    """What edges pin: base64 of the raw public key."""
    return await _public(connection, _FEED_KEY)


async def _create_ca(core: Core, connection: AsyncConnection, root_id: str, name: str, *, organization_id: str | None) -> None:
    authority = certs.make_ca(
        name, certs.make_ec_key(), certs.Validity.lasting(core.now(), _LIFETIME), serial=core.new_serial()
    )
    key = authority.key_pem.reveal().encode()
    await _store(core, connection, root_id, organization_id, public=authority.certificate_pem, private=key)


async def _store(
    core: Core, connection: AsyncConnection, root_id: str, organization_id: str | None, *, public: str, private: bytes
) -> None:
    await connection.execute(
        insert(tables.roots).values(
            id=root_id,
            organization_id=organization_id,
            public=public,
            sealed_key=core.vault.seal(private, _cell(root_id, organization_id)),
            created_at=core.now(),
        )
    )


async def _authority(core: Core, connection: AsyncConnection, root_id: str, organization_id: str | None) -> certs.Authority:
    query = select(tables.roots.c.public, tables.roots.c.sealed_key).where(tables.roots.c.id == root_id)
    public, sealed = (await connection.execute(query)).one()
    return certs.Authority.load(public, Secret(core.vault.open(sealed, _cell(root_id, organization_id)).decode()))


async def _public(connection: AsyncConnection, root_id: str) -> str:
    return (await connection.execute(select(tables.roots.c.public).where(tables.roots.c.id == root_id))).scalar_one()


def _caller_ca_id(organization_id: str) -> str:
    return f"caller-ca:{organization_id}"


def _cell(root_id: str, organization_id: str | None) -> Cell:
    return Cell("roots", "sealed_key", root_id, organization_id or "")
