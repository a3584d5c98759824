"""What edges are told: one signed snapshot of everything they need, with a version that only ever grows.

The snapshot is read in one transaction with its version, so a version names one state of the database. An edge whose
version is current waits; any change wakes it at once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from penstock.control.service import callers, liveness, roots
from penstock.control.service.tunnels import account
from penstock.control.storage import tables
from penstock.control.storage.database import feed_version
from penstock.schema.edges import (
    SNAPSHOT_CONTEXT,
    CallerRecord,
    EdgeRecord,
    RetiringVerifier,
    Snapshot,
    TunnelRecord,
    fresh_message,
)

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.service.core import Core


@dataclass(frozen=True, slots=True)
class SignedSnapshot:
    """The bytes that travel, and the base64 of their Ed25519 signature."""

    version: int
    body: bytes
    signature: str


class Feed:
    """Serves snapshots to any number of waiting edges; one version is read and signed once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._latest: SignedSnapshot | None = None
        self._making = asyncio.Lock()

    async def newer_than(self, version: int, wait: float) -> SignedSnapshot | None:
        """The current snapshot once it is newer than `version`; None when `wait` seconds brought nothing."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(wait, self._core.config.long_poll_limit)
        while True:
            changes = self._core.database.changes
            news = changes.watch()
            if await self._version() > version:
                return await self._snapshot()
            left = deadline - loop.time()
            if left <= 0 or changes.closed:
                return None
            # Woken by this process's writes; the interval is for those of others.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), min(left, self._core.config.change_poll_interval))

    async def vouch(self, version: int, nonce: str) -> str:
        """The base64 of the word that nothing is newer than `version`, for who asked with `nonce`."""
        async with self._core.database.read() as connection:
            key = await roots.feed_key(self._core, connection)
        return base64.b64encode(key.sign(fresh_message(version, nonce))).decode()

    async def _version(self) -> int:
        async with self._core.database.read() as connection:
            return await feed_version(connection)

    async def _snapshot(self) -> SignedSnapshot:
        async with self._making, self._core.database.read() as connection:
            version = await feed_version(connection)
            if self._latest is None or self._latest.version != version:
                snapshot = Snapshot(
                    version=version,
                    tunnels=await _tunnels(connection, self._core.now()),
                    callers=await _callers(self._core, connection),
                    edges=await _edges(connection),
                    agent_edges=await _agent_edges(connection),
                    edge_ca_pem=await roots.edge_ca_pem(connection),
                    caller_ca_pem=await roots.all_caller_cas_pem(connection),
                )
                body = snapshot.model_dump_json().encode()
                signature = (await roots.feed_key(self._core, connection)).sign(SNAPSHOT_CONTEXT + body)
                self._latest = SignedSnapshot(version, body, base64.b64encode(signature).decode())
            return self._latest


async def _edges(connection: AsyncConnection) -> tuple[EdgeRecord, ...]:
    e = tables.edges
    rows = await connection.execute(
        select(e.c.name, e.c.serial, e.c.previous_serial, e.c.caller_host, e.c.caller_port, e.c.server_name).order_by(e.c.name)
    )
    return tuple(
        EdgeRecord(
            name=name, serials=(serial, *([previous] if previous else [])), host=host, port=port, server_name=server_name
        )
        for name, serial, previous, host, port, server_name in rows
    )


async def _agent_edges(connection: AsyncConnection) -> tuple[str, ...]:
    e = tables.edges
    return tuple((await connection.execute(select(e.c.agent_address).order_by(e.c.name))).scalars())


async def _tunnels(connection: AsyncConnection, now: datetime) -> tuple[TunnelRecord, ...]:
    t, c = tables.tunnels, tables.certificates
    active = (
        select(func.count()).where(c.c.tunnel_id == t.c.id, c.c.archived_at.is_(None)).scalar_subquery().label("certificates")
    )
    query = select(t, active)
    live = query.where(t.c.archived_at.is_(None), liveness.of_workspace(t.c.workspace_id))
    rows = await connection.execute(live.order_by(t.c.id))
    return tuple(
        TunnelRecord(
            id=row.id,
            wire_id=row.wire_id,
            account=account(row.organization_id),
            domain=row.domain,
            organization_id=row.organization_id,
            workspace_id=row.workspace_id,
            verifiers=(row.verifier,),
            retiring=_retiring(row.retiring_verifier, row.retiring_until, now),
            certificates=row.certificates,
        )
        for row in rows
    )


def _retiring(verifier: str | None, until: datetime | None, now: datetime) -> tuple[RetiringVerifier, ...]:
    """The edge looks at the time itself: the end of an overlap is no change of the feed."""
    if verifier is None or until is None or until <= now:
        return ()
    return (RetiringVerifier(verifier=verifier, until=until),)


async def _callers(core: Core, connection: AsyncConnection) -> tuple[CallerRecord, ...]:
    c = tables.caller_certificates
    query = select(c).where(c.c.expires_at > callers.kept_since(core), *liveness.of_caller_certificate()).order_by(c.c.serial)
    return tuple(
        CallerRecord(
            serial=row.serial,
            caller_id=row.caller_id,
            organization_id=row.organization_id,
            workspace_id=row.workspace_id,
            expires_at=row.expires_at,
        )
        for row in await connection.execute(query)
    )
