"""Rotating the master key, while control processes run.

New key in front of the old in the file; then, in one transaction, everything sealed anew; then keys that nothing needs leave
the file. Running processes look at the file before they seal, and they seal inside the write lock, so nothing is sealed under
the old key after that transaction. A rotation that dies leaves a file that opens everything, and the next finishes the work.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.control.auth.actors import Machine
from penstock.control.service import audit
from penstock.control.service.bootstrap import open_core
from penstock.control.storage.master_key import MasterKeyFile, new_key
from penstock.control.storage.sealed import keys_in_use, reseal
from penstock.control.storage.vault import key_id

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.config import ControlConfig
    from penstock.control.service.core import Core


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did."""

    key_id: str
    resealed: int


async def rotate(config: ControlConfig) -> Rotation:
    """Make a new master key and move everything under it. Raises ConfigError, SealError."""
    async with open_core(config) as core:
        # The file is read and written under the write lock, for two rotations at once must not lose each other's key.
        async with core.database.write() as connection:
            file = await asyncio.to_thread(MasterKeyFile, config.key_file)
            await asyncio.to_thread(file.replace, [new_key(), *file.keys])
            rotation = await _reseal(core, connection)
        async with core.database.write() as connection:
            file = await asyncio.to_thread(MasterKeyFile, config.key_file)
            needed = await keys_in_use(connection)
            await asyncio.to_thread(file.replace, [file.keys[0], *(key for key in file.keys[1:] if key_id(key) in needed)])
    return rotation


async def reseal_all(config: ControlConfig) -> Rotation:
    """Move everything under the first key of the file, which is left as it is: for files that this program cannot write."""
    async with open_core(config) as core, core.database.write() as connection:
        return await _reseal(core, connection)


async def _reseal(core: Core, connection: AsyncConnection) -> Rotation:
    resealed = await reseal(connection, core.vault)
    await audit.record(core, connection, Machine(), "master_key_rotated", {"master_key_id": core.vault.key_id.hex()})
    return Rotation(core.vault.key_id.hex(), resealed)
