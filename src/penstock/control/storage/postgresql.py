"""PostgreSQL, by a URL as libpq spells it (`sslmode`, `sslrootcert`, several hosts and the rest included).

Several control processes share one. Readers see one moment (repeatable read); writers hold the feed's row from their first
statement on, so they come one after the other as on SQLite, and what they count stays true until they commit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast
from urllib.parse import urlsplit

import asyncpg
from sqlalchemy.pool import NullPool

from penstock.control.storage.backend import BUSY_SECONDS, VERSION_TABLE
from penstock.control.storage.engine import create_async_engine
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from penstock.secret import Secret

_CONNECTIONS: Final = 8  # one writes at a time; a server's default of 100 then serves a dozen control processes
_UPGRADE_LOCK: Final = 0x70656E73746F636B  # "penstock": upgrades exclude each other before there is a table to lock
_STATEMENT_SECONDS: Final = 30.0
_SETTINGS: Final = {
    "application_name": "penstock",
    # A writer whose process froze must not hold the lock for ever, and whoever waits for it is told to come back.
    "idle_in_transaction_session_timeout": "15s",
    "lock_timeout": f"{BUSY_SECONDS:.0f}s",
    "statement_timeout": f"{_STATEMENT_SECONDS:.0f}s",
}
T = TypeVar("T")


class Postgresql:
    """A database on a server."""

    read_options: ClassVar[Mapping[str, Any]] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    write_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, url: Secret) -> None:
        self._url = url

    def __str__(self) -> str:
        parts = urlsplit(self._url.reveal())
        return f"PostgreSQL at {parts.netloc.rpartition('@')[2] or 'the local socket'}{parts.path}"

    def tables(self) -> set[str]:
        """As the protocol says."""
        query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        return asyncio.run(self._fetch(query))

    def version(self) -> str | None:
        """As the protocol says."""
        return next(iter(asyncio.run(self._fetch(f"SELECT version_num FROM {VERSION_TABLE}"))), None)  # noqa: S608 - a constant

    def upgrade(self, steps: Callable[[Connection], None]) -> None:
        """As the protocol says."""
        asyncio.run(self._once(lambda connection: _upgrade(connection, steps)))

    def prepare(self) -> None:
        """Nothing."""

    def engine(self) -> AsyncEngine:
        """As the protocol says."""
        return create_async_engine(
            "postgresql+asyncpg://",
            connect_args=self._arguments(),
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            pool_pre_ping=True,  # a server that restarted is noticed before a request is
            hide_parameters=True,  # as on SQLite
        )

    def _arguments(self) -> dict[str, Any]:
        # The URL as a whole to the driver, which reads it as libpq does; SQLAlchemy's reading knows neither sslmode nor hosts.
        return {
            "dsn": self._url.reveal(),
            "timeout": BUSY_SECONDS,
            "command_timeout": _STATEMENT_SECONDS,
            "server_settings": _SETTINGS,
        }

    async def _fetch(self, query: str) -> set[str]:
        async def run(connection: AsyncConnection) -> set[str]:
            return {cast("str", row[0]) for row in await connection.exec_driver_sql(query)}

        return await self._once(run)

    async def _once(self, run: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """A transaction of its own connection. Raises ConfigError: this is at start, and a person reads it."""
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - beside its only use

        engine = create_async_engine("postgresql+asyncpg://", connect_args=self._arguments(), poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                return await run(connection)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as exc:
            cause = exc.orig if isinstance(exc, DBAPIError) else exc
            raise ConfigError(
                f"{self} cannot be used as the database",
                detail=f"{type(cause).__name__}: {cause}".splitlines()[0],
                hint="check database_url, that the server runs, and what its user may do",
            ) from exc
        finally:
            await engine.dispose()


async def _upgrade(connection: AsyncConnection, steps: Callable[[Connection], None]) -> None:
    await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
    await connection.run_sync(steps)
