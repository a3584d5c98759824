"""Every sealed column, so that a rotation of the master key finds them all; a test compares the list with the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import null, select, update

from penstock.control.storage import tables
from penstock.control.storage.vault import Cell, sealed_by

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.storage.vault import Vault


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values; where a row belongs to no organization the cell's is empty."""

    column: Column[bytes]
    organization: Column[str] | None

    def cell(self, row: str, organization: str | None) -> Cell:
        """The cell of one row."""
        table: Table = self.column.table  # pyright: ignore[reportAssignmentType]  # a column of ours is a table's
        return Cell(table.name, self.column.name, row, organization or "")


SEALED: Final = (
    SealedColumn(tables.roots.c.sealed_key, tables.roots.c.organization_id),
    SealedColumn(tables.tunnels.c.sealed_secret, tables.tunnels.c.organization_id),
    SealedColumn(tables.audit_head.c.seal, None),
)


async def reseal(connection: AsyncConnection, vault: Vault) -> int:
    """Seal everything that is under another key under the current one; how many values that were. Raises SealError."""
    changed = 0
    vault.refresh()
    for sealed in SEALED:
        table: Table = sealed.column.table  # pyright: ignore[reportAssignmentType]  # as above
        organization = null() if sealed.organization is None else sealed.organization
        rows = await connection.execute(select(table.c.id, sealed.column, organization).where(sealed.column.is_not(None)))
        for row_id, value, belongs_to in rows.all():
            if sealed_by(value) == vault.key_id:
                continue
            cell = sealed.cell(str(row_id), belongs_to)
            again = vault.seal(vault.open(value, cell), cell)
            await connection.execute(update(table).where(table.c.id == row_id).values({sealed.column.name: again}))
            changed += 1
    return changed


async def keys_in_use(connection: AsyncConnection) -> set[bytes]:
    """The ids of the keys that something is sealed under."""
    found: set[bytes] = set()
    for sealed in SEALED:
        values = await connection.execute(select(sealed.column).where(sealed.column.is_not(None)))
        found.update(sealed_by(value) for value in values.scalars())
    return found
