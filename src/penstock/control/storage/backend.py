"""What differs between the databases, and nothing else does: opening one, locking it for an upgrade, beginning a transaction.

The blocking parts run once, at start, in a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_SECONDS: Final = 10.0  # how long to wait for another's writer; a transaction takes milliseconds
VERSION_TABLE: Final = "alembic_version"


class Backend(Protocol):
    """One database, not yet opened."""

    read_options: ClassVar[Mapping[str, Any]]
    """Execution options of a transaction that sees one moment of the database and writes nothing."""
    write_options: ClassVar[Mapping[str, Any]]
    """Execution options of one that writes."""

    def __str__(self) -> str:
        """How messages name it; never with a password."""
        ...

    def tables(self) -> set[str]:
        """The tables there are; none where there is no database yet. Blocks. Raises ConfigError when it does not answer."""
        ...

    def version(self) -> str | None:
        """What `alembic_version` holds. Blocks."""
        ...

    def upgrade(self, steps: Callable[[Connection], None]) -> None:
        """Run `steps` in one transaction that excludes every other upgrade. Blocks. Raises ConfigError."""
        ...

    def prepare(self) -> None:
        """What has to hold of a database beside its schema. Blocks."""
        ...

    def engine(self) -> AsyncEngine:
        """Connections for the service's life."""
        ...
