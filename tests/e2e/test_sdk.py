"""The official SDK with nothing changed but its base URL, in its first version with tunnels that people still have and in the
one the tests are pinned to; every answer is parsed by its own models, strictly."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support import ca, sdk_story
from tests.support.control import api, database, start_api
from tests.support.venvs import Venv

if TYPE_CHECKING:
    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]
pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(400)]


@pytest.fixture(scope="module", params=["anthropic==0.121.0", "pinned"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has that version."""
    if request.param == "pinned":
        return sys.executable
    venv = Venv.make(tmp_path_factory.mktemp("sdk") / "venv")
    venv.install(request.param)
    return venv.command("python")


async def test_a_tunnels_life_in_both_key_styles(api: Api, python: str) -> None:
    environment = {
        "PATH": os.defpath,
        "URL": api.control.url,
        "KEY": api.initial.tunnels_key.reveal(),
        "CA": "".join(ca.ca().certificate_pem for _ in range(3)),
    }
    command = [python, str(Path(sdk_story.__file__))]
    ended = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("lived")
