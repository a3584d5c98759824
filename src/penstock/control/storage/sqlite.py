"""SQLite: one file in WAL mode, the default. Writers take the write lock at BEGIN; readers read beside them."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sqlalchemy import URL, create_engine, event

from penstock.config.files import is_there, named_by
from penstock.control.storage.backend import BUSY_SECONDS, VERSION_TABLE
from penstock.control.storage.engine import create_async_engine
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

_CONNECTIONS: Final = 4  # each is a thread; SQLite's readers seldom wait for more than the disk
_WRITE: Final = "penstock_write"


class Sqlite:
    """A file."""

    read_options: ClassVar[Mapping[str, Any]] = {_WRITE: False}
    write_options: ClassVar[Mapping[str, Any]] = {_WRITE: True}

    def __init__(self, file: Path) -> None:
        self._file = file

    def __str__(self) -> str:
        return str(self._file)

    def tables(self) -> set[str]:
        """The tables of the file, which is not made."""
        with named_by("data_dir"):
            if not is_there(self._file):
                return set()
        with self._connect() as connection:
            return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def version(self) -> str | None:
        """As the protocol says."""
        with self._connect() as connection:
            row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
        return str(row[0]) if row else None

    def upgrade(self, steps: Callable[[Connection], None]) -> None:
        """As the protocol says; the file is made where there is none."""
        engine = create_engine(URL.create("sqlite", database=str(self._file)), connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _begin_by_hand)
        event.listen(engine, "begin", _begin_immediate)
        try:
            # SQLite would make it as the umask says, and gives its journals the mode that it has.
            with contextlib.suppress(OSError):  # what is wrong with the place is SQLite's to say
                self._file.touch(mode=0o600)
            with _as_config_error(self), engine.begin() as connection:
                steps(connection)
        finally:
            engine.dispose()

    def prepare(self) -> None:
        """Readers beside a writer: a property of the file, set here once, for setting it takes a lock nobody waits for."""
        with self._connect() as connection:
            deadline = time.monotonic() + BUSY_SECONDS
            while True:
                try:
                    connection.execute("PRAGMA journal_mode = WAL")
                    return
                except sqlite3.OperationalError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(0.02)  # in a thread of its own; SQLite's busy handler does not cover this pragma

    def copy(self, to: Path) -> None:
        """A copy as of one moment, readers and writers notwithstanding. Raises ConfigError, also when `to` exists."""
        try:
            to.touch(mode=0o600, exist_ok=False)  # private from its first byte; SQLite fills a file that is empty
        except FileExistsError as exc:
            raise ConfigError(f"{to} exists already", hint="choose another file: a backup is never overwritten") from exc
        except OSError as exc:
            raise ConfigError(f"cannot write to {to}: {(exc.strerror or '').lower()}", hint="choose another file") from exc
        try:
            with self._connect() as connection:
                connection.execute("VACUUM INTO ?", (str(to),))
        except BaseException:
            to.unlink(missing_ok=True)
            raise

    def engine(self) -> AsyncEngine:
        """As the protocol says."""
        engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(self._file)),
            connect_args={"timeout": BUSY_SECONDS},
            pool_size=_CONNECTIONS,
            max_overflow=0,
            hide_parameters=True,  # parameters hold digests and sealed secrets, and errors are logged
        )
        event.listen(engine.sync_engine, "connect", _configure)
        event.listen(engine.sync_engine, "begin", _begin)
        return engine

    @contextmanager
    def _connect(self) -> Generator[sqlite3.Connection]:
        uri = f"{self._file.absolute().as_uri()}?mode=rw"
        with _as_config_error(self), closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            yield connection


@contextmanager
def _as_config_error(backend: Sqlite) -> Generator[None]:
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - beside its only use

    try:
        yield
    except (sqlite3.DatabaseError, DBAPIError) as exc:
        raise ConfigError(
            f"{backend} cannot be used as the database",
            detail=str(exc.orig if isinstance(exc, DBAPIError) else exc),
            hint="check the file, the disk and who may write there",
        ) from exc


def _begin_by_hand(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # Python's sqlite3 would commit before DDL


def _begin_immediate(connection: Connection) -> None:
    # The lock first, so that two processes upgrade one after the other (the second then finds nothing to do).
    connection.exec_driver_sql("BEGIN IMMEDIATE")


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
