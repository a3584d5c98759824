from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.control import Api, make_config
from tests.support.store import database, run_sql, server

from penstock.control.server import Control
from penstock.control.service import audit_log, backup
from penstock.control.service.bootstrap import open_core
from penstock.control.storage.sqlite import Sqlite
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.control.config import ControlConfig

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio


async def back_up(api: Api, file: Path) -> None:
    if api.config.database_url is None:
        await backup.back_up(api.config, file)
    else:
        server().dump(api.config.database_url.reveal(), file)


def restore(api: Api, file: Path, folder: Path) -> ControlConfig:
    """As docs/operations/control.md says: the database from its backup, the master key from its own."""
    settings: dict[str, Any] = {}
    folder.mkdir(mode=0o700)
    shutil.copy2(api.config.key_file, folder / "master.key")
    if api.config.database_url is None:
        shutil.copy2(file, folder / "control.db")
    else:
        settings["database_url"] = server().database()
        server().restore(settings["database_url"], file)
    return make_config(folder, **settings)


async def test_a_backup_made_while_serving_restores_everything_acknowledged_before_it(api: Api, tmp_path: Path) -> None:
    tunnel = await api.tunnel(display_name="kept")
    path = f"/v1/tunnels/{tunnel['id']}"
    enrolment = (await api.enrol()).json()
    token = (await api.http.post(f"{path}/reveal_token")).json()
    await back_up(api, tmp_path / "backup")
    for _ in range(5):
        await api.tunnel()
    seen = (await api.snapshot(enrolment["credential"])).json()["version"]

    config = restore(api, tmp_path / "backup", tmp_path / "restored")
    await backup.after_restore(config)
    restored = Control(config)
    await restored.start()
    try:
        url = restored.url
        assert [found["id"] for found in (await api.http.get(f"{url}/v1/tunnels")).json()["data"]] == [tunnel["id"]]
        assert (await api.http.post(f"{url}{path}/reveal_token")).json() == token
        # Edges know a later version than the backup's, and never go back: they are given what is restored all the same.
        answer = await api.http.get(
            f"{url}/penstock/v1/edge/snapshot", params={"after": seen}, headers=api.bearing(enrolment["credential"])
        )
        assert answer.status_code == 200
        assert [record["id"] for record in answer.json()["tunnels"]] == [tunnel["id"]]
    finally:
        await restored.stop()
    async with open_core(config) as core:
        assert (await audit_log.verify(core)).findings == []


async def test_a_backup_is_one_moment_while_writers_go_on(api: Api, tmp_path: Path) -> None:
    async def keep_creating() -> None:
        for _ in range(10):
            await api.tunnel()

    async with asyncio.TaskGroup() as group:
        group.create_task(keep_creating())
        await back_up(api, tmp_path / "backup")
    config = restore(api, tmp_path / "backup", tmp_path / "restored")
    async with open_core(config) as core:
        assert (await audit_log.verify(core)).findings == []
    made, told = run_sql(
        config, "SELECT (SELECT count(*) FROM tunnels), (SELECT count(*) FROM audit WHERE type = 'tunnel_created')"
    )[0]
    assert made == told


async def test_the_database_without_its_key_gives_no_secret(api: Api, tmp_path: Path) -> None:
    await api.tunnel()
    await back_up(api, tmp_path / "backup")
    config = restore(api, tmp_path / "backup", tmp_path / "restored")
    config.key_file.unlink()
    with pytest.raises(ConfigError, match="no master key"):
        await Control(config).start()


async def test_a_store_on_postgresql_is_sent_to_its_own_tools(api: Api, tmp_path: Path) -> None:
    if api.config.database_url is not None:
        with pytest.raises(ConfigError, match="PostgreSQL") as caught:
            await backup.back_up(api.config, tmp_path / "backup")
        assert "pg_dump" in (caught.value.hint or "")
    else:
        await backup.back_up(api.config, tmp_path / "backup")
        with pytest.raises(ConfigError, match="exists already"):
            await backup.back_up(api.config, tmp_path / "backup")


async def test_a_backup_is_private_from_its_first_byte(tmp_path: Path) -> None:
    file = tmp_path / "control.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE secrets (value BLOB)")
        connection.executemany("INSERT INTO secrets VALUES (randomblob(1000000))", [()] * 20)
    copy, seen = tmp_path / "copy", set[int]()
    before = os.umask(0)
    try:
        making = asyncio.get_running_loop().run_in_executor(None, Sqlite(file).copy, copy)
        while not making.done():
            with contextlib.suppress(FileNotFoundError):
                seen.add(copy.stat().st_mode & 0o777)
            await asyncio.sleep(0)
        await making
    finally:
        os.umask(before)
    assert seen == {0o600}
    with pytest.raises(ConfigError, match="cannot be used as the database"):
        Sqlite(tmp_path / "none").copy(tmp_path / "another")
    assert not (tmp_path / "another").exists()
