from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca
from tests.support.control import api, database, start_api

from penstock.control.auth.scopes import MANAGE_TUNNELS, ORG_MANAGE_TUNNELS
from penstock.control.service.bootstrap import create_api_key, create_workspace

if TYPE_CHECKING:
    import httpx2
    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]

pytestmark = pytest.mark.anyio

ROOT = "/v1/organizations/tunnels"


@pytest.fixture
async def launch(api: Api) -> dict[str, str]:
    """Headers of the launch edition, with a credential of its scope."""
    key = await create_api_key(api.config, api.initial.workspace_id, scope=ORG_MANAGE_TUNNELS)
    return api.bearing(key.secret, **{"anthropic-beta": "mcp-tunnels-2026-05-19"})


async def _in_another_workspace(api: Api) -> tuple[str, dict[str, Any]]:
    workspace_id = await create_workspace(api.config, api.initial.organization_id, "second")
    key = await create_api_key(api.config, workspace_id, scope=MANAGE_TUNNELS)
    response = await api.http.post("/v1/tunnels", headers=api.bearing(key.secret))
    assert response.status_code == 200, response.text
    return workspace_id, response.json()


async def test_it_shows_the_whole_organizations_tunnels_with_their_workspaces(api: Api, launch: dict[str, str]) -> None:
    first = await api.tunnel(display_name="first")
    workspace_id, second = await _in_another_workspace(api)
    listed = (await api.http.get(ROOT, headers=launch)).json()
    assert listed == {"data": [second | {"workspace_id": workspace_id}, first | {"workspace_id": None}], "next_page": None}
    of_one = (await api.http.get(ROOT, headers=launch, params={"workspace_id": workspace_id})).json()
    assert [tunnel["id"] for tunnel in of_one["data"]] == [second["id"]]
    assert (await api.http.get(f"{ROOT}/{second['id']}", headers=launch)).json() == second | {"workspace_id": workspace_id}


async def test_everything_but_create_is_there(api: Api, launch: dict[str, str]) -> None:
    tunnel = await api.tunnel()
    url = f"{ROOT}/{tunnel['id']}"
    token = (await api.http.post(f"{url}/reveal_token", headers=launch)).json()
    rotated = (await api.http.post(f"{url}/rotate_token", headers=launch, json={"reason": "x"})).json()
    assert rotated["id"] != token["id"]
    body = {"ca_certificate_pem": ca.ca().certificate_pem}
    certificate = (await api.http.post(f"{url}/certificates", headers=launch, json=body)).json()
    assert (await api.http.get(f"{url}/certificates", headers=launch)).json() == {"data": [certificate], "next_page": None}
    assert (await api.http.get(f"{url}/certificates/{certificate['id']}", headers=launch)).json() == certificate
    archived = (await api.http.post(f"{url}/certificates/{certificate['id']}/archive", headers=launch)).json()
    assert archived["archived_at"] is not None
    assert (await api.http.post(f"{url}/archive", headers=launch)).json()["archived_at"] is not None
    assert (await api.http.post(ROOT, headers=launch, json={})).status_code == 405


async def test_it_is_for_its_own_scope_and_beta_alone(api: Api, launch: dict[str, str]) -> None:
    beta = {"anthropic-beta": "mcp-tunnels-2026-05-19"}

    async def status(headers: dict[str, str]) -> tuple[int, str]:
        response: httpx2.Response = await api.http.get(ROOT, headers=headers)
        return response.status_code, response.json()["error"]["type"]

    assert await status(api.bearing(api.initial.tunnels_key, **beta)) == (403, "permission_error")
    assert await status(api.bearing(api.initial.api_key, **beta)) == (403, "permission_error")
    assert await status(launch | {"anthropic-beta": "mcp-tunnels-2026-06-22"}) == (400, "invalid_request_error")
    assert await status(launch | {"anthropic-beta": ""}) == (400, "invalid_request_error")


async def test_the_current_edition_names_no_workspace(api: Api) -> None:
    tunnel = await api.tunnel()
    assert "workspace_id" not in tunnel
    assert "workspace_id" not in (await api.http.get(f"/v1/tunnels/{tunnel['id']}")).json()
    assert "workspace_id" not in (await api.http.get("/v1/tunnels")).json()["data"][0]
