"""The official SDK with nothing changed but its base URL, in its first version with tunnels that people still have and in the
one the tests are pinned to; every answer is parsed by its own models, strictly."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca, sdk_story
from tests.support.control import api, database, start_api
from tests.support.people import admin
from tests.support.sdk_organization import live, published, recorded, shape
from tests.support.venvs import Venv
from tests.support.workloads import AUDIENCE, workload

if TYPE_CHECKING:
    from collections.abc import Callable

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


@pytest.mark.parametrize("namespace", ["organization", "beta.organization"])
async def test_every_organization_method_that_is_promised(api: Api, namespace: str) -> None:
    boss = await admin(api)
    user = await boss.post("/penstock/v1/users", {"email": "other@example.com"})
    key = await boss.post("/penstock/v1/api_keys", {"name": "k"})
    async with recorded(api.control.url, boss.token) as (client, asked):
        resources = attrgetter(namespace)(client)
        await live(resources, user_id=user["id"], key_id=key["id"], is_beta="beta" in namespace, tag="a")
    served = (await boss.get("/openapi.json"))["paths"]
    promised = published() & {(method.upper(), shape(path)) for path, item in served.items() for method in item}
    driven = {one for one in promised if any(_is(one, each) for each in asked)}
    beta_alone = {("POST", "/v1/organizations/users/{}/sign_out")} if "beta" not in namespace else set()
    assert driven == promised - beta_alone


_BY_ENVIRONMENT = """
import anthropic
tunnels = anthropic.Anthropic().beta.tunnels
made = tunnels.create()
print([made.id] == [found.id for found in tunnels.list()])
"""


async def test_the_sdks_own_environment_makes_it_a_workload_that_manages_tunnels(
    start_api: Callable[..., Any], tmp_path: Path
) -> None:
    api: Api = await start_api(public_url=AUDIENCE)
    one = await workload(api)
    token = tmp_path / "token"
    token.write_text(one.idp.sign())
    environment = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "ANTHROPIC_BASE_URL": api.control.url,
        "ANTHROPIC_FEDERATION_RULE_ID": one.rule["id"],
        "ANTHROPIC_ORGANIZATION_ID": api.initial.organization_id,
        "ANTHROPIC_IDENTITY_TOKEN_FILE": str(token),
    }
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _BY_ENVIRONMENT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.stdout == "True\n", ended.stderr


def _is(one: tuple[str, str], asked: tuple[str, str]) -> bool:
    return one[0] == asked[0] and re.fullmatch(one[1].replace("{}", "[^/]+"), asked[1]) is not None
