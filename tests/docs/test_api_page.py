"""The API's page against the routes."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
from fastapi.routing import APIRoute
from tests.support.control import api, database, start_api
from tests.support.pages import Page
from tests.support.sdk_organization import published, shape
from tests.support.terminal import type_once

from penstock.control.api import conditions
from penstock.control.api.app import _ROUTERS
from penstock.control.config import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]
PAGE = Page("api.md")


@pytest.mark.anyio
async def test_its_commands_can_be_typed_as_they_stand(api: Api, tmp_path: Path) -> None:
    made = api.initial
    variables = {
        "API": api.control.url,
        "TUNNELS_KEY": made.tunnels_key.reveal(),
        "API_KEY": made.api_key.reveal(),
        "ADMIN_EMAIL": made.admin_email,
        "ADMIN_PASSWORD": made.admin_password.reveal(),
    }
    await asyncio.to_thread(type_once, PAGE.commands(""), tmp_path, variables)
    [archived] = (await api.http.get("/v1/tunnels", params={"include_archived": True})).json()["data"]
    assert archived["archived_at"] is not None
    record = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])
    assert (record["type"], record["tunnel_id"]) == ("tunnel_archived", archived["id"])


def test_what_the_sdk_has_is_served_or_said_to_be_out_of_scope() -> None:
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    served = {(method, shape(route.path)) for route in routes for method in route.methods or ()}
    named = {shape(f"/v1/organizations{path}") for path in re.findall(r"`(/[a-z_{}/]+)`", Page("out-of-scope.md").text)}
    missing = {path for method, path in published() if (method, path) not in served}
    assert len(published()) > 90
    assert {path for path in missing if not any(path == out or path.startswith(f"{out}/") for out in named)} == set()
    assert {out for out in named if not any(path.startswith(out) for path in missing)} == set()


def test_the_headers_it_names_are_those_that_are_known() -> None:
    assert set(re.findall(r"mcp-tunnels-\d{4}-\d\d-\d\d", PAGE.text)) == {conditions.TUNNELS_BETA, conditions.LAUNCH_BETA}
    assert set(re.findall(r"`?(20\d\d-\d\d-\d\d)`", re.sub(r"mcp-tunnels-\S+", "", PAGE.text))) <= conditions.VERSIONS


def test_the_limits_it_tells_are_the_defaults() -> None:
    limits = Limits()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", PAGE.text, re.MULTILINE))
    assert rows["active tunnels of an organization"] == str(limits.tunnels_per_organization)
    assert rows["active certificates of a tunnel"] == str(limits.certificates_per_tunnel)
    rates = limits.rates
    assert rates.key is not None
    assert rates.address is not None
    assert rows["requests of one credential"] == f"{rates.key.per_minute:,} a minute, {rates.key.burst:,} at once"
    assert rows["requests of one address"] == f"{rates.address.per_minute:,} a minute, {rates.address.burst:,} at once"
    assert rows["request body"] == f"{limits.body >> 10} KiB, within {limits.body_seconds:.0f} s"
