from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.support.store import run_sql

from penstock.control.service.bootstrap import create_enrolment_token

if TYPE_CHECKING:
    from tests.support.control import Api

pytestmark = pytest.mark.anyio

PATH = "/penstock/v1/audit/activities"


@pytest.fixture
def admin(api: Api) -> Api:
    """The first key, with an admin's scope."""
    run_sql(api.config, "UPDATE api_keys SET scope = scope || ' org:admin'")
    return api


@pytest.mark.parametrize("path", [PATH, "/penstock/v1/audit/export"])
async def test_only_admins_read_the_log(api: Api, path: str) -> None:
    assert (await api.http.get(path)).status_code == 403
    assert (await api.http.get(path, headers={"authorization": "Bearer pst-key-none"})).status_code == 401


async def test_an_admin_sees_the_own_organization_and_nothing_of_the_platform(admin: Api) -> None:
    await create_enrolment_token(admin.config)
    page = (await admin.http.get(PATH, params={"limit": 100})).json()
    assert {activity["organization_id"] for activity in page["data"]} == {admin.initial.organization_id}
    other = await admin.http.get(PATH, params={"organization_id": "00000000-0000-4000-8000-000000000000"})
    assert other.status_code == 403


async def test_pages_and_filters_travel_in_the_query(admin: Api) -> None:
    tunnel, _ = await admin.tunnel(), await admin.tunnel()
    first = (await admin.http.get(PATH, params={"type": "tunnel_created", "limit": 1})).json()
    second = (await admin.http.get(PATH, params={"type": "tunnel_created", "limit": 1, "page": first["next_page"]})).json()
    assert second["next_page"] is None
    assert second["data"][0]["tunnel_id"] == tunnel["id"]
    assert second["data"][0]["position"] < first["data"][0]["position"]
    params = {"subject_id": tunnel["id"], "type": ["tunnel_created", "tunnel_archived"]}
    assert len((await admin.http.get(PATH, params=params)).json()["data"]) == 1
    assert (await admin.http.get(PATH, params={"created_after": "2999-01-01T00:00:00Z"})).json()["data"] == []


@pytest.mark.parametrize(
    "query",
    [
        "type=nonsense",
        "limit=0",
        "page=x",
        "page=page_wrI=",  # a raised two: a digit to some, a number to nobody
        "created_after=2999-01-01T00:00:00",
        "created_before=x",
    ],
)
async def test_a_malformed_query_is_refused_by_name(admin: Api, query: str) -> None:
    response = await admin.http.get(f"{PATH}?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["error"]["message"]


async def test_the_export_is_json_lines_oldest_first(admin: Api) -> None:
    await admin.tunnel()
    response = await admin.http.get("/penstock/v1/audit/export")
    assert response.headers["content-type"] == "application/jsonl"
    positions = [json.loads(line)["position"] for line in response.text.splitlines()]
    assert positions == sorted(positions)
    assert (await admin.http.get("/penstock/v1/audit/export?type=nonsense")).status_code == 400
