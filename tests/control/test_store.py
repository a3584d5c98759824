"""What holds of the store on every database: races, order, durability, upgrades."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca
from tests.support.control import make_config
from tests.support.store import Store, database, run_sql

from penstock.control.errors import ApiError
from penstock.control.server import Control
from penstock.control.service import readiness
from penstock.control.service.bootstrap import initialize, open_core
from penstock.control.storage import postgresql, sqlite
from penstock.control.storage.database import advance_feed, feed_version
from penstock.control.storage.migrate import HEAD
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.control import Api

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio


async def test_sixty_parallel_certificates_fill_exactly_two_slots(api: Api) -> None:
    tunnel = await api.tunnel()
    pems = [ca.ca().certificate_pem for _ in range(60)]
    responses = await asyncio.gather(*(api.register(tunnel["id"], pem) for pem in pems))
    assert sum(response.status_code == 200 for response in responses) == 2
    assert {response.status_code for response in responses} == {200, 400}
    listed = (await api.http.get(f"/v1/tunnels/{tunnel['id']}/certificates")).json()["data"]
    assert len(listed) == 2


async def test_one_certificate_sixty_times_at_once_is_registered_once(api: Api) -> None:
    tunnel, pem = await api.tunnel(), ca.ca().certificate_pem
    responses = await asyncio.gather(*(api.register(tunnel["id"], pem) for _ in range(60)))
    assert sorted(response.status_code for response in responses) == [200, *[409] * 59]


async def test_archiving_sixty_times_at_once_archives_once(api: Api) -> None:
    tunnel = await api.tunnel()
    paths = [f"/v1/tunnels/{tunnel['id']}/archive"] * 60
    responses = await asyncio.gather(*(api.http.post(path, timeout=30) for path in paths))
    assert len({response.text for response in responses}) == 1
    rows = run_sql(api.config, "SELECT count(*) FROM audit WHERE type = 'tunnel_archived'")
    assert rows == [["1"]]


async def test_two_control_planes_on_one_store_keep_one_limit(api: Api) -> None:
    second = Control(api.config)
    await second.start()
    try:
        urls = [api.control.url, second.url] * 30
        made = await asyncio.gather(*(api.http.post(f"{url}/v1/tunnels", json={}, timeout=30) for url in urls))
        assert sum(response.status_code == 200 for response in made) == 10
        assert {response.status_code for response in made} == {200, 400}
    finally:
        await second.stop()


async def test_a_change_that_commits_late_is_never_passed_by(api: Api) -> None:
    """The writer who began first commits last: a reader of positions must not see the second's before the first's."""
    async with open_core(api.config) as first, open_core(api.config) as second, open_core(api.config) as reader:

        async def version() -> int:
            async with reader.database.read() as connection:
                return await feed_version(connection)

        began, start = asyncio.Event(), await version()

        async def late() -> int:
            async with first.database.write() as connection:
                await advance_feed(connection)
                began.set()
                await asyncio.sleep(0.3)  # the delay is the fault, not a wait for a state
                return await feed_version(connection)

        async def quick() -> int:
            await began.wait()
            async with second.database.write() as connection:
                await advance_feed(connection)
                return await feed_version(connection)

        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(late()), group.create_task(quick())
            await began.wait()
            assert await version() == start  # readers are not held up, and see neither
        assert [task.result() for task in tasks] == [start + 1, start + 2]
        assert await version() == start + 2


async def test_a_reader_sees_one_moment_while_others_write(api: Api) -> None:
    async with open_core(api.config) as core, core.database.read() as connection:
        before = await feed_version(connection)
        await api.tunnel()
        assert await feed_version(connection) == before
        async with core.database.read() as later:
            assert await feed_version(later) > before


async def test_a_change_that_fails_leaves_nothing(api: Api) -> None:
    async with open_core(api.config) as core:
        async with core.database.read() as connection:
            before = await feed_version(connection)

        async def fail() -> None:
            async with core.database.write() as connection:
                await advance_feed(connection)
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        async with core.database.read() as connection:
            assert await feed_version(connection) == before


async def test_a_text_the_database_cannot_hold_is_a_clear_refusal(api: Api) -> None:
    response = await api.http.post("/v1/tunnels", json={"display_name": "a\x00b"})
    assert response.status_code in {200, 400}
    assert (await api.http.get("/v1/tunnels")).status_code == 200


async def test_a_newer_schema_is_refused_and_left_alone(api: Api) -> None:
    run_sql(api.config, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer Penstock"):
        await Control(api.config).start()
    assert run_sql(api.config, "SELECT version_num FROM alembic_version") == [["9999"]]


async def test_a_foreign_database_is_refused_and_left_alone(tmp_path: Path, database: Store) -> None:
    config = make_config(tmp_path, **database.empty())
    run_sql(config, "CREATE TABLE diary (entry text)")
    with pytest.raises(ConfigError, match="not a Penstock database"):
        await initialize(config)


async def test_initializing_at_once_from_many_sides_makes_one(tmp_path: Path, database: Store) -> None:
    config = make_config(tmp_path / "control", **database.empty())
    results = await asyncio.gather(*(initialize(config) for _ in range(6)), return_exceptions=True)
    assert len([result for result in results if not isinstance(result, BaseException)]) == 1
    assert all(isinstance(result, ConfigError) for result in results if isinstance(result, BaseException))
    assert run_sql(config, "SELECT version_num FROM alembic_version") == [[HEAD]]


async def test_a_server_that_is_not_there_is_one_clear_line_without_the_password(tmp_path: Path) -> None:
    url = f"postgresql://penstock:hunter2@/nothing?host={tmp_path}"
    with pytest.raises(ConfigError) as caught:
        await initialize(make_config(tmp_path / "control", database_url=url))
    assert "cannot be used as the database" in caught.value.public
    assert "hunter2" not in f"{caught.value.public} {caught.value.detail} {caught.value.hint}"


async def test_connections_the_server_cut_are_replaced_unnoticed(api: Api) -> None:
    if api.config.database_url is not None:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock'"
        run_sql(api.config, others)
    assert (await api.http.get("/v1/tunnels")).status_code == 200
    await api.tunnel()


async def test_who_waits_too_long_for_a_writer_that_froze_is_told_to_come_back(
    start_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgresql._SETTINGS, "lock_timeout", "200ms")
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    api: Api = await start_api()
    async with open_core(api.config) as frozen, frozen.database.write():
        assert (await api.http.get("/v1/tunnels")).status_code == 200  # readers go on
        assert (await api.http.post("/v1/tunnels", json={}, timeout=30)).status_code == 529
    await api.tunnel()


async def test_the_database_gone_is_529_and_nothing_of_it_leaks(api: Api) -> None:
    async with open_core(api.config) as core:

        async def fail() -> None:
            async with core.database.read():
                raise ConnectionResetError("connection to 10.0.0.5 lost")

        with pytest.raises(ApiError) as caught:
            await fail()
    assert caught.value.status == 529
    assert "10.0.0.5" not in caught.value.public


async def test_probes_say_not_ready_while_the_database_does_not_answer(
    start_api: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_INTERVAL", 0.02)
    monkeypatch.setattr(readiness, "_PATIENCE", 0.2)
    api: Api = await start_api(admin_addr="127.0.0.1:0")
    probes = [f"http://{api.control.admin_address}/readyz", f"{api.control.url}/readyz"]

    async def until(status: int) -> str:
        async with asyncio.timeout(10):
            while {(found := await api.http.get(probe)).status_code for probe in probes} != {status}:
                pass
        return found.text

    # A table that is gone fails at once; one that is locked by whom nobody ends is a wait without end.
    run_sql(api.config, "ALTER TABLE organizations RENAME TO elsewhere")
    assert await until(503) == "not ready: the database does not answer\n"
    run_sql(api.config, "ALTER TABLE elsewhere RENAME TO organizations")
    assert await until(200) == "ready\n"
    if api.config.database_url is not None:  # readers of SQLite wait for nobody
        async with open_core(api.config) as core, core.database.write() as connection:
            await connection.exec_driver_sql("LOCK TABLE organizations")
            await until(503)
        await until(200)
