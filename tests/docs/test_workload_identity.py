"""docs/guides/workload-identity.md, run as it stands: the three things made with the SDK, and what a job types."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import anthropic
import pytest
from tests.support.answering import answering, http
from tests.support.control import api, database, start_api
from tests.support.pages import Page
from tests.support.people import admin
from tests.support.terminal import type_once
from tests.support.workloads import AUDIENCE, workload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]
pytestmark = pytest.mark.anyio

PAGE = Page("guides/workload-identity.md")


async def test_the_three_things_are_made_by_the_pages_program(api: Api) -> None:
    [program] = PAGE.blocks(language="python")
    program = program.replace("https://penstock.example.com", api.control.url).replace("wrkspc_…", api.initial.workspace_id)
    names: dict[str, Any] = {"anthropic": anthropic, "session_token": (await admin(api)).token}
    await asyncio.to_thread(exec, program, names)
    assert names["rule"].target.service_account_id == names["account"].id


async def test_what_a_workload_types_provisions(start_api: Callable[..., Any], tmp_path: Path) -> None:
    started: Api = await start_api(public_url=AUDIENCE)
    one = await workload(started)
    (tmp_path / "token").write_text(one.idp.sign())
    variables = {
        "API_URL": started.control.url,
        "ANTHROPIC_FEDERATION_RULE_ID": one.rule["id"],
        "ANTHROPIC_ORGANIZATION_ID": started.initial.organization_id,
    }
    await asyncio.to_thread(type_once, PAGE.commands("file"), tmp_path, variables)
    [tunnel] = (await started.http.get("/v1/tunnels")).json()["data"]
    assert (tmp_path / "data" / "tunnel-id").read_text().strip() == tunnel["id"]
    async with answering(http(200, json.dumps({"count": 1, "value": one.idp.sign()}))) as actions:
        asked = {"ACTIONS_ID_TOKEN_REQUEST_URL": f"{actions}/?v=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job"}
        said = await asyncio.to_thread(type_once, PAGE.commands("actions"), tmp_path, variables | asked)
    assert "nothing to do" in said
