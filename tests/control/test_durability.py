"""What was acknowledged is there after a kill -9, of the control plane's process and of PostgreSQL's."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support import postgresql
from tests.support.command import standing
from tests.support.control import PUBLISHED, make_config
from tests.support.store import Store, database, run_sql

from penstock.control.server import Control
from penstock.control.service import audit_log
from penstock.control.service.bootstrap import Initial, initialize, open_core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio

LIMIT = 400


async def acknowledged_until(died: Callable[[], Any], url: str, initial: Initial) -> set[str]:
    """Create tunnels from several sides, call `died` in the middle; the ids of those that were acknowledged."""
    made: set[str] = set()
    headers = {"authorization": f"Bearer {initial.tunnels_key.reveal()}", **PUBLISHED}

    async def keep_creating(http: httpx2.AsyncClient) -> None:
        for _ in range(LIMIT // 8):
            try:
                response = await http.post(f"{url}/v1/tunnels", json={}, timeout=20)
            except httpx2.HTTPError:
                return
            if response.status_code != 200:
                return
            made.add(response.json()["id"])

    async def kill() -> None:
        while len(made) < 20:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(died)

    async with httpx2.AsyncClient(headers=headers, trust_env=False) as http, asyncio.TaskGroup() as group:
        group.create_task(kill())
        for _ in range(8):
            group.create_task(keep_creating(http))
    return made


async def test_a_killed_control_plane_loses_nothing_it_acknowledged(tmp_path: Path, database: Store) -> None:
    where = database.empty()
    config = make_config(tmp_path / "control", limits={"tunnels_per_organization": LIMIT}, **where)
    initial = await initialize(config)
    settings = {
        "data_dir": str(config.data_dir),
        "listen_addr": "127.0.0.1:0",
        "admin_addr": None,
        "limits": {"tunnels_per_organization": LIMIT},
        **where,
    }
    (tmp_path / "control.yaml").write_text(json.dumps(settings))
    with standing("control", "--config", "control.yaml", folder=tmp_path) as process:
        line = await asyncio.to_thread(process.until, "control listening")
        url = f"http://{json.loads(line)['api']}"
        made = await acknowledged_until(process.process.kill, url, initial)
    await _holds(config, made)


async def test_a_crashed_postgresql_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    with postgresql.running(durable=True) as server:
        url = server.database()
        config = make_config(tmp_path, database_url=url, limits={"tunnels_per_organization": LIMIT})
        initial = await initialize(config)
        control = Control(config)
        await control.start()
        try:
            made = await acknowledged_until(lambda: server.stop(signal.SIGQUIT), control.url, initial)
            server.start()
            headers = {"authorization": f"Bearer {initial.tunnels_key.reveal()}", **PUBLISHED}
            async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
                # The control plane was not restarted: it finds the server again by itself.
                listed = (await http.get(f"{control.url}/v1/tunnels?limit=1000")).json()["data"]
        finally:
            await control.stop()
        assert made <= {tunnel["id"] for tunnel in listed}
        assert len(made) >= 20
        async with open_core(config) as core:
            assert (await audit_log.verify(core)).findings == []


async def _holds(config: Any, made: set[str]) -> None:
    assert len(made) >= 20
    assert made <= {row[0] for row in run_sql(config, "SELECT id FROM tunnels")}
    told = {row[0] for row in run_sql(config, "SELECT subject_id FROM audit WHERE type = 'tunnel_created'")}
    assert told == {row[0] for row in run_sql(config, "SELECT id FROM tunnels")}
    async with open_core(config) as core:
        assert (await audit_log.verify(core)).findings == []
