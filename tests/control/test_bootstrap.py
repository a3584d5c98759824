from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.support.control import make_config

from penstock.control.server import Control
from penstock.control.service.bootstrap import create_api_key, create_workspace, initialize, revoke_api_key
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


async def test_initializing_makes_keys_that_are_stored_nowhere(tmp_path: Path) -> None:
    config = make_config(tmp_path / "a folder? 100% #1")
    initial = await initialize(config)
    assert initial.api_key.reveal().startswith("pst-key-")
    assert initial.enrolment_token.reveal().startswith("pst-enrol-")
    for file in config.data_dir.iterdir():
        content = file.read_bytes()
        assert initial.api_key.reveal().encode() not in content
        assert initial.enrolment_token.reveal().encode() not in content
        assert b"PRIVATE KEY" not in content


async def test_the_master_key_is_its_owners_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    await initialize(config)
    assert stat.S_IMODE(config.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.data_dir.stat().st_mode) == 0o700
    config.key_file.chmod(0o604)
    with pytest.raises(ConfigError, match="readable by everyone"):
        await Control(config).start()


async def test_initializing_twice_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    await initialize(config)
    key = config.key_file.read_bytes()
    with pytest.raises(ConfigError, match="initialized already"):
        await initialize(config)
    assert config.key_file.read_bytes() == key


async def test_two_initializations_at_once_make_one(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    results = await asyncio.gather(*(initialize(config) for _ in range(4)), return_exceptions=True)
    assert len([result for result in results if not isinstance(result, BaseException)]) == 1
    assert all(isinstance(result, ConfigError) for result in results if isinstance(result, BaseException))
    control = Control(config)
    await control.start()
    await control.stop()


async def test_a_database_without_its_master_key_is_never_given_a_new_one(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    await initialize(config)
    config.key_file.unlink()
    with pytest.raises(ConfigError, match="no master key"):
        await initialize(config)
    with pytest.raises(ConfigError, match="no master key"):
        await Control(config).start()
    assert not config.key_file.exists()


async def test_an_attempt_that_died_after_the_key_is_taken_up_again(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    await initialize(config)
    for file in config.data_dir.glob("control.db*"):
        file.unlink()
    await initialize(config)


async def test_starting_without_initializing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        await Control(make_config(tmp_path / "empty")).start()
    assert "not initialized" in caught.value.public
    assert "init" in (caught.value.hint or "")
    assert not (tmp_path / "empty").exists()


async def test_a_place_that_nobody_can_look_into_is_named(tmp_path: Path) -> None:
    barred = tmp_path / "barred"
    barred.touch()  # as a folder that is closed to this user is, whoever this user is
    for attempt in (
        lambda: Control(make_config(barred / "control")).start(),
        lambda: initialize(make_config(tmp_path / "other", master_key_file=barred / "key")),
    ):
        with pytest.raises(ConfigError, match=f"open {barred}/.*: not a directory") as caught:
            await attempt()
        assert "check the path" in (caught.value.hint or "")


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    await initialize(config)
    with closing(sqlite3.connect(config.database_file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer Penstock"):
        await Control(config).start()


async def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    await initialize(config)
    config.database_file.unlink()
    with closing(sqlite3.connect(config.database_file)) as connection, connection:
        connection.execute("CREATE TABLE diary (entry TEXT)")
    with pytest.raises(ConfigError, match="not a Penstock database"):
        await Control(config).start()


async def test_garbage_in_place_of_the_database_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    await initialize(config)
    for file in config.data_dir.glob("control.db-*"):
        file.unlink()
    config.database_file.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="cannot be used as the database"):
        await Control(config).start()


async def test_what_does_not_exist_cannot_be_added_to_or_revoked(tmp_path: Path) -> None:
    config = make_config(tmp_path / "control")
    await initialize(config)
    with pytest.raises(ConfigError, match="no organization"):
        await create_workspace(config, "6f1c2d0a-5a2e-4f0e-9f57-1f1d6a0f4f10", "x")
    with pytest.raises(ConfigError, match="no workspace"):
        await create_api_key(config, "wrkspc_none")
    with pytest.raises(ConfigError, match="no live API key"):
        await revoke_api_key(config, "apikey_none")


async def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot make"):
        await initialize(make_config(tmp_path / "file" / "control"))
