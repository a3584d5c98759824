"""Killed at any step, the next run finishes the job and nothing is made twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.control import api, database, start_api
from tests.support.fuse import Fuse, Killed, OneByOne, fused
from tests.support.provisioned import FAST, Side, side

from penstock.client.control import ControlClient
from penstock.setup import material
from penstock.setup.progress import Progress
from penstock.setup.provision import provision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.control import Api

__all__ = ["api", "database", "side", "start_api"]

pytestmark = pytest.mark.anyio


async def _killed_at(side: Side, at: int, version: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """One run that is killed at this step; whether it was."""
    fuse = Fuse(at)
    with monkeypatch.context() as patched:
        patched.setattr(ControlClient, "_call", fused(fuse, ControlClient._call))  # where every request passes
        async with side.platform() as platform:
            output = OneByOne(side.folder, fuse)
            try:
                await provision(output, platform, replace(FAST, token_version=version), Progress(side.told.append))
            except Killed:
                return True
    return False


async def test_killed_anywhere_the_next_run_finishes_the_job_and_nothing_is_made_twice(
    start_api: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: Api = await start_api(limits={"tunnels_per_organization": 1000})
    side = Side(started, tmp_path / "0")
    at = 0
    while await _killed_at(side, at, "1", monkeypatch):
        await side.init(replace(FAST, token_version="1"))
        assert len(await side.tunnels()) == at + 1, f"killed at {at}"
        assert len(await side.certificates()) == 1, f"killed at {at}"
        await _is_whole(side)
        at += 1
        side.folder = tmp_path / str(at)
    assert at > 20
    assert await side.init(replace(FAST, token_version="1")) == []


async def test_killed_anywhere_in_a_rotation_the_token_is_rotated_once(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    await side.init(replace(FAST, token_version="0"))
    at = 0
    while await _killed_at(side, at, f"after {at}", monkeypatch):
        await side.init(replace(FAST, token_version=f"after {at}"))
        await _is_whole(side)
        at += 1
    assert at > 10
    assert await side.rotations() == at + 1  # the last was not killed


async def _is_whole(side: Side) -> None:
    """Nothing is under way, and the output holds what the platform says."""
    assert not {material.CREATING, material.ROTATING} & side.entries().keys()
    revealed = await side.api.http.post(f"/v1/tunnels/{side.read('tunnel-id')}/reveal_token")
    assert side.read("tunnel-token") == revealed.json()["tunnel_token"]


async def test_a_file_that_a_killed_run_was_writing_is_swept_away(side: Side) -> None:
    side.folder.mkdir()
    (side.folder / ".tls.key-k3j4").write_text("half a key")
    (side.folder / ".somebody-elses").write_text("kept")
    await side.init()
    assert {file.name for file in side.folder.iterdir() if file.name.startswith(".")} == {".setup.lock", ".somebody-elses"}
