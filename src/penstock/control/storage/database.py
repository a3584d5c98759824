"""Connections and transactions.

Writers take SQLite's write lock at BEGIN (`BEGIN IMMEDIATE`): with the lock taken at the first write instead, two writers
can both count nine tunnels and both make the tenth (60 parallel creates made 39). On a database with row locks,
`lock_organization` is what takes its place, and callers use it already.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, event, select, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from penstock.control.errors import ApiError
from penstock.control.storage import tables
from penstock.control.storage.changes import Changes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

_BUSY_SECONDS: Final = 10.0  # how long to wait for another process's writer; a transaction takes milliseconds
_CONNECTIONS: Final = 4  # each is a thread; SQLite's readers seldom wait for more than the disk
_WRITE: Final = "penstock_write"


class Database:
    """The store of one control process. Opened on a migrated file, closed with `aclose`."""

    def __init__(self, file: Path) -> None:
        self._engine: AsyncEngine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(file)),
            connect_args={"timeout": _BUSY_SECONDS},
            pool_size=_CONNECTIONS,
            max_overflow=0,
            hide_parameters=True,  # parameters hold digests and sealed secrets, and errors are logged
        )
        event.listen(self._engine.sync_engine, "connect", _configure)
        event.listen(self._engine.sync_engine, "begin", _begin)
        # Writers of this process queue here in order; SQLite's own waiting is polling, and unfair.
        self._writing = asyncio.Lock()
        self.changes = Changes()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that sees one moment of the database."""
        async with _unavailable_as_api_error(), self._engine.connect() as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that holds the write lock from its first moment. Waiting edges wake when it moved the feed."""
        async with _unavailable_as_api_error(), self._writing, self._engine.connect() as connection:
            writer = await connection.execution_options(**{_WRITE: True})
            async with writer.begin():
                yield writer
        # After the commit, or the woken would read the past.
        self.changes.announce()

    async def aclose(self) -> None:
        """Wake those who wait, then close all connections."""
        self.changes.close()
        await self._engine.dispose()


async def advance_feed(connection: AsyncConnection) -> None:
    """Move the feed's version on, in the transaction of the change itself: never without it, never before it is seen."""
    await connection.execute(update(tables.feed).values(version=tables.feed.c.version + 1))


async def lock_feed(connection: AsyncConnection) -> None:
    """Hold the feed's row until the end of the transaction."""
    (await connection.execute(select(tables.feed.c.id).with_for_update())).one()


async def feed_version(connection: AsyncConnection) -> int:
    """The version as of this transaction."""
    return (await connection.execute(select(tables.feed.c.version))).scalar_one()


async def lock_organization(connection: AsyncConnection, organization_id: str) -> None:
    """Hold the organization's row until the end of the transaction: whoever counts against a limit locks the parent first."""
    query = select(tables.organizations.c.id).where(tables.organizations.c.id == organization_id).with_for_update()
    (await connection.execute(query)).one()


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; `_begin` does
    cursor = connection.cursor()
    try:
        # FULL: what was acknowledged survives a power cut, too. Writes are rare here.
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin(connection: Any) -> None:
    is_writer = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


@asynccontextmanager
async def _unavailable_as_api_error() -> AsyncGenerator[None]:
    try:
        yield
    except OperationalError as exc:  # locked, disk full, file gone
        raise ApiError("overloaded_error", "the database does not answer; try again", detail=str(exc.orig)) from exc
    except DBAPIError as exc:
        raise ApiError("api_error", "internal error", detail=f"{type(exc).__name__}: {exc.orig}") from exc
