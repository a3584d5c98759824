"""Backup and restore: a copy of the store while it is used, and what has to happen before a restored one serves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sqlalchemy import update

from penstock.control.auth.actors import Machine
from penstock.control.service import audit
from penstock.control.service.bootstrap import open_core
from penstock.control.storage import tables
from penstock.control.storage.sqlite import Sqlite
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.control.config import ControlConfig

# Far more changes than happen between a backup and its restoring, and small enough for eight million restores in 64 bits.
_LEAP: Final = 1 << 40


async def back_up(config: ControlConfig, to: Path) -> None:
    """Copy the database as of one moment, servers running or not. Raises ConfigError, also when there is a file already."""
    if config.database_url is not None:
        raise ConfigError("this store is on PostgreSQL", hint="back it up with pg_dump, or with what backs up your server")
    async with open_core(config):
        pass  # refused unless it is ours and initialized
    await asyncio.to_thread(Sqlite(config.database_file).copy, to)


async def after_restore(config: ControlConfig) -> None:
    """Let edges accept a restored store: they never go back to a version older than one they saw, so the feed leaps ahead."""
    async with open_core(config) as core, core.database.write() as connection:
        await connection.execute(update(tables.feed).values(version=tables.feed.c.version + _LEAP))
        await audit.record(core, connection, Machine(), "store_restored", {})
