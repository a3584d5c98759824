"""Connections and transactions.

Writers come one after the other, on every database and over all processes: on SQLite the write lock is taken at BEGIN, on
PostgreSQL the feed's row is the first thing a writer locks. With locks taken later two writers can both count nine tunnels and
both make the tenth (60 parallel creates made 39 and 31), and a change that commits late can slip behind a reader who has
already passed its position. Writes here are few and take milliseconds, so the queue costs nothing that anyone notices.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from penstock.control.errors import ApiError
from penstock.control.storage import tables
from penstock.control.storage.backend import BUSY_SECONDS
from penstock.control.storage.changes import Changes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.storage.backend import Backend

FEED_CHANGES_KEPT: Final = 256
"""Versions of which it is known what they are about: a control process that was away for longer reads all there is."""
_TUNNEL: Final = "tunnel"
_CALLER: Final = "caller"
_HAS_NEWS: Final = "penstock_has_news"  # of a writing connection: its transaction moved the feed's version
_changes: Final = tables.feed_changes

# SQLSTATE classes that pass: connection, rolled back (deadlock), resources, lock not available, operator intervention, system.
_PASSING = ("08", "40", "53", "55", "57", "58")


class Database:
    """The store of one control process. Opened on a migrated database, closed with `aclose`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._engine = backend.engine()
        # Writers of this process queue here in order; SQLite's own waiting is polling, and a connection each is too dear. Where
        # one in front waits for a database that hangs, those behind are told to come back and do not wait in turn.
        self._writing = asyncio.Lock()
        self.changes = Changes()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that sees one moment of the database."""
        async with _as_api_error(), self._engine.connect() as connection:
            reader = await connection.execution_options(**self._backend.read_options)
            async with reader.begin():
                yield reader

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that holds the write lock from its first moment. Waiting edges wake when it ends, if it has news."""
        async with _as_api_error(), self._turn(), self._engine.connect() as connection:
            writer = await connection.execution_options(**self._backend.write_options)
            writer.info[_HAS_NEWS] = False  # the pool's connections are used again
            async with writer.begin():
                (await writer.execute(select(tables.feed.c.id).with_for_update())).one()
                yield writer
            has_news = writer.info[_HAS_NEWS]
        # After the commit, or the woken would read the past.
        if has_news:
            self.changes.announce()

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        async with asyncio.timeout(BUSY_SECONDS):
            await self._writing.acquire()
        try:
            yield
        finally:
            self._writing.release()

    async def aclose(self) -> None:
        """Wake those who wait, then close all connections."""
        self.changes.close()
        await self._engine.dispose()


@dataclass(frozen=True, slots=True)
class FeedChanges:
    """What some versions of the feed are about: tunnels by wire id, callers' certificates by serial."""

    tunnels: frozenset[str] = frozenset()
    callers: frozenset[str] = frozenset()

    @classmethod
    def of_tunnel(cls, wire_id: str) -> FeedChanges:
        """One tunnel: itself, its secrets, how many certificates it has."""
        return cls(tunnels=frozenset({wire_id}))

    @classmethod
    def of_caller(cls, serial: str) -> FeedChanges:
        """One caller's certificate."""
        return cls(callers=frozenset({serial}))


async def advance_feed(connection: AsyncConnection, about: FeedChanges | None = None) -> None:
    """Move the feed's version on, in the transaction of the change itself: never without it, never before it is seen.

    about: all that the change is about. Where that is not said it may be anything, and who reads the feed reads all of it.
    """
    moved = update(tables.feed).values(version=tables.feed.c.version + 1).returning(tables.feed.c.version)
    version = (await connection.execute(moved)).scalar_one()
    connection.info[_HAS_NEWS] = True
    await connection.execute(delete(_changes).where(_changes.c.version <= version - FEED_CHANGES_KEPT))
    if about is not None:
        keys = [(_TUNNEL, key) for key in about.tunnels] + [(_CALLER, key) for key in about.callers]
        await connection.execute(insert(_changes), [{"version": version, "kind": kind, "key": key} for kind, key in keys])


async def feed_changes(connection: AsyncConnection, after: int, to: int) -> FeedChanges | None:
    """What the versions behind `after` are about, up to `to`, which is the newest; None where that may be anything."""
    if not 0 <= to - after <= FEED_CHANGES_KEPT:
        return None
    rows = (await connection.execute(select(_changes).where(_changes.c.version > after))).all()
    if {row.version for row in rows} != set(range(after + 1, to + 1)):
        return None
    return FeedChanges(
        tunnels=frozenset(row.key for row in rows if row.kind == _TUNNEL),
        callers=frozenset(row.key for row in rows if row.kind == _CALLER),
    )


async def feed_version(connection: AsyncConnection) -> int:
    """The version as of this transaction."""
    return (await connection.execute(select(tables.feed.c.version))).scalar_one()


async def lock_organization(connection: AsyncConnection, organization_id: str) -> None:
    """Hold the organization's row until the end of the transaction: whoever counts against a limit locks the parent first."""
    query = select(tables.organizations.c.id).where(tables.organizations.c.id == organization_id).with_for_update()
    (await connection.execute(query)).one()


@asynccontextmanager
async def _as_api_error() -> AsyncGenerator[None]:
    try:
        yield
    except (StatementError, PoolTimeoutError, OSError) as exc:
        if _is_unfit(exc):
            raise ApiError("invalid_request_error", "a value cannot be stored", detail=_cause(exc)) from exc
        if _is_passing(exc):
            raise ApiError("overloaded_error", "the database does not answer; try again", detail=_cause(exc)) from exc
        raise ApiError("api_error", "internal error", detail=_cause(exc)) from exc


def _is_passing(exc: Exception) -> bool:
    """Locked, full, gone, restarting: whatever a later attempt may not meet."""
    if isinstance(exc, StatementError) and not isinstance(exc, DBAPIError):
        return False
    if not isinstance(exc, DBAPIError) or isinstance(exc, (OperationalError, InterfaceError)) or exc.connection_invalidated:
        return True
    return _state(exc)[:2] in _PASSING


def _is_unfit(exc: Exception) -> bool:
    """A value no column holds: for PostgreSQL a NUL in a text, for us the last hour of the year 9999 in another zone."""
    if isinstance(exc, StatementError) and not isinstance(exc, DBAPIError):  # refused before it went to the database
        return isinstance(exc.orig, (OverflowError, ValueError))
    return _state(exc).startswith("22")


def _state(exc: Exception) -> str:
    return str(getattr(getattr(exc, "orig", None), "sqlstate", "") or "")


def _cause(exc: Exception) -> str:
    cause = exc.orig if isinstance(exc, StatementError) else exc
    return f"{type(cause).__name__}: {cause}"
