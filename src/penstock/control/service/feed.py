"""What edges are told: a signed snapshot of everything they need, or what changed since the one they hold.

All of it is read in one transaction with its version, which only ever grows, so a version names one state of the database. An
edge whose version is current waits; any change wakes it at once. Of one that says what it is about only that is read, or an
edge's every poll would cost what the platform is large; of any other, and once an hour, everything.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import func, select

from penstock.control.service import callers, liveness, roots
from penstock.control.service.feed_state import FeedState, Few
from penstock.control.service.tunnels import account
from penstock.control.storage import tables
from penstock.control.storage.database import FeedChanges, feed_changes, feed_version
from penstock.schema.edges import (
    DELTA_CONTEXT,
    SNAPSHOT_CONTEXT,
    CallerRecord,
    Delta,
    EdgeRecord,
    RetiringVerifier,
    Snapshot,
    TunnelRecord,
    fresh_message,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.service.core import Core

_Row: TypeAlias = tuple[Any, ...]
_WHOLE_EVERY: Final = timedelta(hours=1)  # certificates that ran out long ago end without a change
_KEPT: Final = 64  # pages of one version: edges that follow hold the one before it, all of them


@dataclass(frozen=True, slots=True)
class SignedPage:
    """The bytes that travel, and the base64 of their Ed25519 signature."""

    version: int
    body: bytes
    signature: str
    is_delta: bool


class Feed:
    """Serves snapshots and deltas to any number of waiting edges; one version is read once, and what is asked signed once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._state = FeedState()
        self._whole: SignedPage | None = None
        self._pages: dict[tuple[int, str], SignedPage] = {}
        """Of this version, the deltas from others."""
        self._making = asyncio.Lock()
        self._whole_due = datetime.min.replace(tzinfo=UTC)

    async def newer_than(self, version: int, wait: float, mark: str | None = None) -> SignedPage | None:
        """What is newer than `version`; None when `wait` seconds brought nothing.

        A delta where one leads here from the content of that `mark`, else the whole.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(wait, self._core.config.long_poll_limit)
        while True:
            changes = self._core.database.changes
            news = changes.watch()
            if await self._version() > version:
                return await self._page(version, mark)
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

    async def _page(self, after: int, mark: str | None) -> SignedPage:
        async with self._making, self._core.database.read() as connection:
            version = await feed_version(connection)
            if self._state.version != version:
                await self._read(connection, version)
            key = await roots.feed_key(self._core, connection)
            if mark is not None and (page := self._delta(after, mark, key)) is not None:
                return page
            if self._whole is None:
                self._whole = _signed(version, self._state.snapshot(), SNAPSHOT_CONTEXT, key)
            return self._whole

    def _delta(self, after: int, mark: str, key: Ed25519PrivateKey) -> SignedPage | None:
        if (after, mark) not in self._pages:
            delta = self._state.delta(after, mark)
            if delta is None:
                return None  # and nothing is kept of it: an edge may make up as many marks as it likes
            if len(self._pages) >= _KEPT:
                self._pages.clear()
            self._pages[after, mark] = _signed(delta.version, delta, DELTA_CONTEXT, key)
        return self._pages[after, mark]

    async def _read(self, connection: AsyncConnection, version: int) -> None:
        now = self._core.now()
        about = None if now >= self._whole_due else await feed_changes(connection, self._state.version, version)
        if about is None:
            self._whole_due = now + _WHOLE_EVERY
        # Read before anything is taken over: a database that fails halfway leaves what is held as it was.
        tunnels, certificates = await _tunnels(connection, about), await _callers(self._core, connection, about)
        few = Few(
            edges=await _edges(connection),
            agent_edges=await _agent_edges(connection),
            edge_ca_pem=await roots.edge_ca_pem(connection),
            caller_ca_pem=await roots.all_caller_cas_pem(connection),
        )
        # Taken over out of sight of the rest: were it left half done, what changed would be missing in all later deltas.
        state, self._state = self._state, FeedState()
        self._whole = None
        self._pages.clear()
        changed = (
            state.tunnels.update(tunnels, lambda row: _tunnel(row, now), about and about.tunnels),
            state.callers.update(certificates, _caller, about and about.callers),
        )
        state.advance(version, *changed, few)
        self._state = state


def _signed(version: int, page: Snapshot | Delta, context: bytes, key: Ed25519PrivateKey) -> SignedPage:
    body = page.model_dump_json(exclude_none=True).encode()
    signature = base64.b64encode(key.sign(context + body)).decode()
    return SignedPage(version, body, signature, is_delta=isinstance(page, Delta))


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


async def _tunnels(connection: AsyncConnection, about: FeedChanges | None) -> dict[str, _Row]:
    """By wire id; where `about` is known only those."""
    t, c = tables.tunnels, tables.certificates
    active = (
        select(func.count()).where(c.c.tunnel_id == t.c.id, c.c.archived_at.is_(None)).scalar_subquery().label("certificates")
    )
    told = (t.c.wire_id, t.c.id, t.c.domain, t.c.organization_id, t.c.workspace_id, t.c.verifier)
    query = select(*told, t.c.retiring_verifier, t.c.retiring_until, active)
    live = query.where(t.c.archived_at.is_(None), liveness.of_workspace(t.c.workspace_id))
    if about is not None:
        live = live.where(t.c.wire_id.in_(about.tunnels))
    return {row[0]: tuple(row) for row in await connection.execute(live.order_by(t.c.id))}


def _tunnel(row: _Row, now: datetime) -> TunnelRecord:
    wire_id, tunnel_id, domain, organization_id, workspace_id, verifier, retiring, until, certificates = row
    return TunnelRecord(
        id=tunnel_id,
        wire_id=wire_id,
        account=account(organization_id),
        domain=domain,
        organization_id=organization_id,
        workspace_id=workspace_id,
        verifiers=(verifier,),
        retiring=_retiring(retiring, until, now),
        certificates=certificates,
    )


def _retiring(verifier: str | None, until: datetime | None, now: datetime) -> tuple[RetiringVerifier, ...]:
    """The edge looks at the time itself: the end of an overlap is no change of the feed."""
    if verifier is None or until is None or until <= now:
        return ()
    return (RetiringVerifier(verifier=verifier, until=until),)


async def _callers(core: Core, connection: AsyncConnection, about: FeedChanges | None) -> dict[str, _Row]:
    """By serial, likewise."""
    c = tables.caller_certificates
    query = select(c.c.serial, c.c.caller_id, c.c.organization_id, c.c.workspace_id, c.c.expires_at)
    live = query.where(c.c.expires_at > callers.kept_since(core), *liveness.of_caller_certificate())
    if about is not None:
        live = live.where(c.c.serial.in_(about.callers))
    return {row[0]: tuple(row) for row in await connection.execute(live.order_by(c.c.serial))}


def _caller(row: _Row) -> CallerRecord:
    serial, caller_id, organization_id, workspace_id, expires_at = row
    return CallerRecord(
        serial=serial,
        caller_id=caller_id,
        organization_id=organization_id,
        workspace_id=workspace_id,
        expires_at=expires_at,
    )
