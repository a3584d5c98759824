from __future__ import annotations

import asyncio
import base64
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca
from tests.support.store import database

from penstock.control.auth.scopes import DEVELOPER, MANAGE_TUNNELS
from penstock.control.service.bootstrap import create_api_key, create_workspace
from penstock.control.service.tunnels import UNHEARD
from penstock.protocol.token import parse_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio


async def test_a_created_tunnel_has_the_published_shape_and_a_random_domain(api: Api) -> None:
    response = await api.http.post("/v1/tunnels", json={"display_name": "echo"})
    tunnel = response.json()
    assert response.status_code == 200
    assert set(tunnel) == {"id", "archived_at", "created_at", "display_name", "domain", "type"}
    assert tunnel["type"] == "tunnel"
    assert tunnel["id"].startswith("tnl_")
    assert tunnel["display_name"] == "echo"
    assert tunnel["archived_at"] is None
    assert re.fullmatch(r"[a-z0-9]{8}\.tunnel\.penstock\.internal", tunnel["domain"])
    assert tunnel["created_at"].endswith("Z")
    datetime.fromisoformat(tunnel["created_at"])
    assert response.headers["anthropic-organization-id"] == api.initial.organization_id
    assert response.headers["anthropic-workspace-id"] == api.initial.workspace_id


@pytest.mark.parametrize("content", [b"", b"{}", b'{"display_name": null}'])
async def test_a_tunnel_may_be_created_without_a_name(api: Api, content: bytes) -> None:
    response = await api.http.post("/v1/tunnels", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text
    assert response.json()["display_name"] is None


async def test_tunnels_are_listed_newest_first_in_pages_that_meet(api: Api) -> None:
    made = [(await api.tunnel())["id"] for _ in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    pages = 0
    while True:
        pages += 1
        page = (await api.http.get("/v1/tunnels", params=query)).json()
        assert len(page["data"]) <= 2
        seen += [tunnel["id"] for tunnel in page["data"]]
        if page["next_page"] is None:
            break
        query["page"] = page["next_page"]
    assert pages == 3
    assert seen == made[::-1]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "page=page_bm9wZQ==", "page=x", "include_archived=perhaps"]
)
async def test_a_malformed_list_query_is_refused_by_name(api: Api, query: str) -> None:
    response = await api.http.get(f"/v1/tunnels?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["error"]["message"]


async def test_archiving_hides_the_tunnel_takes_its_certificates_along_and_may_be_repeated(api: Api) -> None:
    tunnel = await api.tunnel()
    await api.register(tunnel["id"])
    first = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")).json()
    again = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")).json()
    assert first["archived_at"] is not None
    assert again == first
    assert (await api.http.get(f"/v1/tunnels/{tunnel['id']}")).json() == first
    assert (await api.http.get("/v1/tunnels")).json()["data"] == []
    assert (await api.http.get("/v1/tunnels?include_archived=true")).json()["data"] == [first]
    path = f"/v1/tunnels/{tunnel['id']}/certificates"
    assert (await api.http.get(path)).json()["data"] == []
    (certificate,) = (await api.http.get(path, params={"include_archived": True})).json()["data"]
    assert certificate["archived_at"] == first["archived_at"]


async def test_an_archived_tunnel_gives_no_token_and_takes_no_certificate(api: Api) -> None:
    tunnel = await api.tunnel()
    await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")
    for response in (await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token"), await api.register(tunnel["id"])):
        assert response.status_code == 409
        assert response.json()["error"]["type"] == "conflict_error"
        assert response.headers["x-should-retry"] == "false"


async def test_the_token_is_the_published_one_and_the_same_each_time(api: Api) -> None:
    tunnel = await api.tunnel()
    first = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")).json()
    again = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")).json()
    assert first == again
    assert first["type"] == "tunnel_token"
    assert re.fullmatch(r"ttkn_[0-9a-f]{64}", first["id"])
    members = json.loads(base64.b64decode(first["tunnel_token"], validate=True))
    assert {"a", "t", "s"} <= set(members)
    assert len(base64.b64decode(members["s"])) == 32


async def test_the_token_names_the_edges_and_their_ca(api: Api) -> None:
    tunnel = await api.tunnel()
    enrolment = (await api.enrol()).json()
    revealed = (await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")).json()
    token = parse_token(revealed["tunnel_token"])
    assert token.edges == ("edge.example.com:7844",)
    (der,) = token.cas
    assert base64.b64encode(der).decode() in enrolment["edge_ca_pem"].replace("\n", "")


async def test_the_answers_that_hold_secrets_are_not_to_be_stored(api: Api) -> None:
    tunnel = await api.tunnel()
    response = await api.http.post(f"/v1/tunnels/{tunnel['id']}/reveal_token")
    assert response.headers["cache-control"] == "no-store"


async def test_sixty_parallel_creates_make_exactly_ten_tunnels(api: Api) -> None:
    responses = await asyncio.gather(*(api.http.post("/v1/tunnels", json={}, timeout=30) for _ in range(60)))
    made = [response.json() for response in responses if response.status_code == 200]
    refused = [response for response in responses if response.status_code != 200]
    assert len(made) == 10
    assert len({tunnel["domain"] for tunnel in made}) == 10
    assert len((await api.http.get("/v1/tunnels?limit=100")).json()["data"]) == 10
    for response in refused:
        assert response.status_code == 400
        assert "Organization already has the maximum of 10 non-archived Tunnels" in response.json()["error"]["message"]


async def test_the_limit_counts_all_workspaces_and_no_archived_tunnels(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits={"tunnels_per_organization": 2})
    other = await _second_key(api)
    first = await api.tunnel()
    assert (await api.http.post("/v1/tunnels", json={}, headers=api.bearing(other))).status_code == 200
    assert (await api.http.post("/v1/tunnels", json={})).status_code == 400
    await api.http.post(f"/v1/tunnels/{first['id']}/archive")
    assert (await api.http.post("/v1/tunnels", json={})).status_code == 200


async def test_another_workspace_finds_nothing_anywhere(api: Api) -> None:
    tunnel = await api.tunnel()
    await api.register(tunnel["id"])
    workspace = await create_workspace(api.config, api.initial.organization_id, "second")
    headers = api.bearing(await _key(api, workspace))
    caller = api.bearing(await _key(api, workspace, DEVELOPER))
    path = f"/v1/tunnels/{tunnel['id']}"
    unknown = await api.http.get("/v1/tunnels/tnl_unknown")
    for response in (
        await api.http.get(path, headers=headers),
        await api.http.post(f"{path}/archive", headers=headers),
        await api.http.post(f"{path}/reveal_token", headers=headers),
        await api.http.get(f"{path}/certificates", headers=headers),
        await api.http.post(f"{path}/certificates", json={"ca_certificate_pem": _PEM}, headers=headers),
        await api.http.get("/penstock/v1/tunnels/resolve", params={"host": f"echo.{tunnel['domain']}"}, headers=caller),
    ):
        assert response.status_code == 404, response.text
        assert response.json()["error"]["type"] == "not_found_error"
    # Foreign and unknown say the same, or one could tell that the tunnel exists.
    foreign = await api.http.get(path, headers=headers)
    assert foreign.json()["error"] == unknown.json()["error"]
    assert (await api.http.get("/v1/tunnels", headers=headers)).json()["data"] == []
    assert (await api.http.get(path)).json()["archived_at"] is None


async def test_resolving_tells_where_and_whom_to_trust(api: Api) -> None:
    tunnel = await api.tunnel()
    await api.register(tunnel["id"], _PEM)
    await api.enrol("edge-1", caller_address="[::1]:8443")
    for host in (f"echo.{tunnel['domain']}", tunnel["domain"], f"ECHO.{tunnel['domain']}:443"):
        found = (await api.http.get("/penstock/v1/tunnels/resolve", params={"host": host})).json()
        assert found["tunnel_id"] == tunnel["id"]
        assert found["domain"] == tunnel["domain"]
        assert [anchor.strip() for anchor in found["trust_anchors"]] == [_PEM.strip()]
        [edge] = found["edges"]
        assert edge == {"host": "::1", "port": 8443, "server_name": "edge-1.edge.penstock.internal", "rank": UNHEARD}
        assert "BEGIN CERTIFICATE" in found["edge_ca_pem"]


@pytest.mark.parametrize("host", ["a.b.{domain}", "echo.zzzzzzzz.tunnel.penstock.internal"])
async def test_a_host_no_tunnel_serves_is_not_found(api: Api, host: str) -> None:
    tunnel = await api.tunnel()
    response = await api.http.get("/penstock/v1/tunnels/resolve", params={"host": host.format(domain=tunnel["domain"])})
    assert response.status_code == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "a b", "", "echo..x", "x" * 400])
async def test_a_malformed_host_is_refused(api: Api, host: str) -> None:
    assert (await api.http.get("/penstock/v1/tunnels/resolve", params={"host": host})).status_code == 400


async def _second_key(api: Api) -> str:
    return await _key(api, await create_workspace(api.config, api.initial.organization_id, "second"))


async def _key(api: Api, workspace: str, scope: str = MANAGE_TUNNELS) -> str:
    return (await create_api_key(api.config, workspace, "second", scope=scope)).secret.reveal()


_PEM = ca.ca().certificate_pem
