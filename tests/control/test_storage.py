from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from penstock.control.errors import ApiError
from penstock.control.storage import database, identities, migrate
from penstock.control.storage.master_key import create_master_key, load_master_key
from penstock.control.storage.sqlite import Sqlite
from penstock.control.storage.vault import Cell, SealError, Vault
from penstock.errors import ConfigError
from penstock.net.tasks import Tasks

if TYPE_CHECKING:
    from pathlib import Path

CELL = Cell("tunnels", "sealed_secret", "tnl_1", "org")


def test_the_migrated_schema_is_the_one_the_code_sees(tmp_path: Path) -> None:
    migrate.migrate(Sqlite(tmp_path / "new.db"))
    engine = create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, identities.metadata) == []
    finally:
        engine.dispose()


def test_the_head_that_code_knows_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "penstock.control.storage:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    migrate.migrate(Sqlite(file))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE feed SET version = 42")
    migrate.migrate(Sqlite(file))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT id, version FROM feed").fetchall() == [(1, 42)]


def test_what_is_sealed_opens_in_its_own_cell_only() -> None:
    vault = Vault(b"k" * 32)
    sealed = vault.seal(b"secret", CELL)
    assert b"secret" not in sealed
    assert vault.open(sealed, CELL) == b"secret"
    for other in (
        Cell("roots", "sealed_secret", "tnl_1", "org"),
        Cell("tunnels", "other", "tnl_1", "org"),
        Cell("tunnels", "sealed_secret", "tnl_2", "org"),
        Cell("tunnels", "sealed_secret", "tnl_1", "other"),
    ):
        with pytest.raises(SealError):
            vault.open(sealed, other)


def test_every_altered_byte_is_noticed() -> None:
    vault = Vault(b"k" * 32)
    sealed = vault.seal(b"secret", CELL)
    for index in range(len(sealed)):
        altered = sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]
        with pytest.raises(SealError):
            vault.open(altered, CELL)
        with pytest.raises(SealError):
            vault.open(sealed[:index], CELL)


def test_the_same_secret_never_seals_to_the_same_bytes() -> None:
    vault = Vault(b"k" * 32)
    assert vault.seal(b"secret", CELL) != vault.seal(b"secret", CELL)


def test_another_master_key_is_named_as_the_cause() -> None:
    sealed = Vault(b"k" * 32).seal(b"secret", CELL)
    with pytest.raises(SealError, match="another master key"):
        Vault(b"x" * 32).open(sealed, CELL)


def test_a_master_key_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    vault = create_master_key(file)
    assert load_master_key(file).open(vault.seal(b"x", CELL), CELL) == b"x"
    with pytest.raises(ConfigError):
        create_master_key(file)


@pytest.mark.parametrize("content", [b"", b"short", b"A" * 44, b"\xff" * 44])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "master.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no master key"):
        load_master_key(file)


@pytest.mark.anyio
async def test_whoever_waits_behind_a_writer_that_hangs_is_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    migrate.migrate(Sqlite(tmp_path / "new.db"))
    store = database.Database(Sqlite(tmp_path / "new.db"))
    done = asyncio.Event()

    async def hang() -> None:
        async with store.write():
            began.set()
            await done.wait()

    began, hanging = asyncio.Event(), Tasks().spawn(hang(), "hang")
    await began.wait()
    for _ in range(2):
        with pytest.raises(ApiError, match="does not answer"):
            async with store.write():
                pass
    done.set()
    await hanging
    async with store.write():  # and nobody is in the way of the next
        pass
    await store.aclose()
