"""Brings a database to this program's schema, in one transaction, before anything else reads it.

Runs in a thread: alembic is synchronous and reads files. `HEAD` spares its import when there is nothing to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.control.storage.backend import VERSION_TABLE
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penstock.control.storage.backend import Backend

HEAD: Final = "0007"
_SCRIPTS: Final = "penstock.control.storage:migrations"


def migrate(backend: Backend) -> None:
    """Make or upgrade the schema. Raises ConfigError for a database this program does not know, and leaves it untouched."""
    if schema_version(backend) != HEAD:
        backend.upgrade(_upgrade)
    backend.prepare()


def schema_version(backend: Backend) -> str | None:
    """The version a database is at; None for an empty one. Raises ConfigError when it is not one of ours or newer."""
    names = backend.tables()
    if not names:
        return None
    if VERSION_TABLE not in names:
        raise ConfigError(f"{backend} is not a Penstock database", hint="choose another data_dir or database_url")
    version = backend.version()
    if version is not None and version > HEAD:  # numbered, so order is age
        raise ConfigError(
            f"the database is of a newer Penstock (schema {version}, this program knows {HEAD})",
            hint="run the newer version, or restore the backup made before its upgrade",
        )
    return version


def _upgrade(connection: Connection, to: str = "head") -> None:
    from alembic import command  # noqa: PLC0415 - 100 ms that most starts do not need
    from alembic.config import Config  # noqa: PLC0415 - as above

    settings = Config()
    settings.set_main_option("script_location", _SCRIPTS)
    settings.attributes["connection"] = connection
    command.upgrade(settings, to)
