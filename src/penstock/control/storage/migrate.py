"""Brings a database to this program's schema, in one transaction, before anything else reads it.

Runs in a thread with its own plain connection: alembic is synchronous and reads files. `HEAD` spares alembic's import when
there is nothing to do.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

HEAD: Final = "0002"
_BUSY_SECONDS: Final = 10.0  # another process may be upgrading the same file
_SCRIPTS: Final = "penstock.control.storage:migrations"


def migrate(file: Path) -> None:
    """Make or upgrade the schema. Raises ConfigError for a database this program does not know, and leaves it untouched."""
    try:
        if schema_version(file) != HEAD:
            _upgrade(file)
        _use_wal(file)
    except sqlite3.DatabaseError as exc:
        raise ConfigError(
            f"{file} cannot be used as the database", detail=str(exc), hint="check the file, the disk and who may write there"
        ) from exc


def schema_version(file: Path) -> str | None:
    """The version a database is at; None for an empty one. Raises ConfigError when it is not one of ours or newer."""
    if not file.exists():
        return None
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not names:
            return None
        if "alembic_version" not in names:
            raise ConfigError(f"{file} is not a Penstock database", hint="point data_dir at another folder")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    version = str(row[0]) if row else None
    if version is not None and version > HEAD:  # numbered, so order is age
        raise ConfigError(
            f"the database is of a newer Penstock (schema {version}, this program knows {HEAD})",
            hint="run the newer version, or restore the backup made before its upgrade",
        )
    return version


def _use_wal(file: Path) -> None:
    """Readers beside a writer. A property of the file: set here once, for setting it takes a lock that nobody waits for."""
    with closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as connection:
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)  # in a thread of its own; SQLite's busy handler does not cover this pragma


def _upgrade(file: Path) -> None:
    from alembic import command  # noqa: PLC0415 - 100 ms that most starts do not need
    from alembic.config import Config  # noqa: PLC0415 - as above
    from sqlalchemy import URL, create_engine  # noqa: PLC0415 - as above

    engine = create_engine(URL.create("sqlite", database=str(file)), connect_args={"timeout": _BUSY_SECONDS})
    try:
        _begin_by_hand(engine)
        with engine.begin() as connection:
            settings = Config()
            settings.set_main_option("script_location", _SCRIPTS)
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")
    finally:
        engine.dispose()


def _begin_by_hand(engine: Engine) -> None:
    from sqlalchemy import event  # noqa: PLC0415 - as above

    # Python's sqlite3 would commit before DDL; and the lock is taken first, so that two processes upgrade one after the other
    # (the second then finds nothing to do).
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
