from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from tests.support.store import database, run_sql

from penstock.control.service import bootstrap

if TYPE_CHECKING:
    from tests.support.control import Api

__all__ = ["database"]  # both of them

pytestmark = pytest.mark.anyio


class Reporting:
    """An enrolled edge that reports."""

    def __init__(self, api: Api, credential: str) -> None:
        self.api = api
        self.headers = api.bearing(credential)
        self.incarnation = str(uuid4())

    async def report(self, *wire_ids: str, **said: Any) -> dict[str, Any]:
        links = [
            {"id": str(uuid4()), "wire_id": wire_id, "connector_id": "c", "version": "v", "since": "2026-01-01T00:00:00Z"}
            for wire_id in wire_ids
        ]
        body = {"incarnation": self.incarnation, "links": links, **said}
        response = await self.api.http.post("/penstock/v1/edge/presence", json=body, headers=self.headers)
        assert response.status_code == 200, response.text
        return response.json()

    async def withdraw(self) -> None:
        path = f"/penstock/v1/edge/presence/{self.incarnation}"
        assert (await self.api.http.delete(path, headers=self.headers)).status_code == 204


async def edge(api: Api, name: str) -> Reporting:
    address = f"127.0.0.1:{8440 + int(name[-1])}"
    return Reporting(api, (await api.enrol(name, caller_address=address)).json()["credential"])


async def wire_id(api: Api, tunnel: dict[str, Any]) -> str:
    ((found,),) = run_sql(api.config, f"SELECT wire_id FROM tunnels WHERE id = '{tunnel['id']}'")
    return found


async def ranks(api: Api, tunnel: dict[str, Any]) -> dict[str, int]:
    headers = api.bearing(api.initial.api_key)
    response = await api.http.get("/penstock/v1/tunnels/resolve", params={"host": tunnel["domain"]}, headers=headers)
    return {found["server_name"].partition(".")[0]: found["rank"] for found in response.json()["edges"]}


async def test_callers_are_sent_to_who_holds_the_tunnel_then_to_who_lives(api: Api) -> None:
    tunnel = await api.tunnel()
    one, two, _ = [await edge(api, f"edge-{number}") for number in (1, 2, 3)]
    assert await ranks(api, tunnel) == {"edge-1": 2, "edge-2": 2, "edge-3": 2}
    await one.report()
    await two.report(await wire_id(api, tunnel))
    assert await ranks(api, tunnel) == {"edge-1": 1, "edge-2": 0, "edge-3": 2}
    await two.report(is_draining=True, links=None)
    assert await ranks(api, tunnel) == {"edge-1": 1, "edge-2": 2, "edge-3": 2}
    await one.withdraw()
    assert await ranks(api, tunnel) == {"edge-1": 2, "edge-2": 2, "edge-3": 2}


async def test_an_edge_is_told_what_the_others_hold(api: Api) -> None:
    first, second = await api.tunnel(), await api.tunnel()
    held, other = await wire_id(api, first), await wire_id(api, second)
    one, two, three = [await edge(api, f"edge-{number}") for number in (1, 2, 3)]
    await one.report(held, held, other)
    await two.report(held)
    assert (await three.report())["holders"] == {held: ["edge-1", "edge-2"], other: ["edge-1"]}
    assert (await one.report(held))["holders"] == {held: ["edge-2"]}
    assert (await three.report())["holders"] == {held: ["edge-1", "edge-2"]}


async def test_a_link_told_twice_is_one_link(api: Api) -> None:
    tunnel = await api.tunnel()
    one = await edge(api, "edge-1")
    link = {
        "id": "l",
        "wire_id": await wire_id(api, tunnel),
        "connector_id": "c",
        "version": "v",
        "since": "2026-01-01T00:00:00Z",
    }
    await one.report(links=[link, link])
    assert await ranks(api, tunnel) == {"edge-1": 0}


@pytest.mark.parametrize("since", ["9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+10:00"])
async def test_a_time_that_no_column_holds_is_400(api: Api, since: str) -> None:
    one = await edge(api, "edge-1")
    link = {"id": "l", "wire_id": "w", "connector_id": "c", "version": "v", "since": since}
    body = {"incarnation": one.incarnation, "links": [link]}
    response = await api.http.post("/penstock/v1/edge/presence", json=body, headers=one.headers)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    await one.report()


async def test_two_workers_of_one_edge_hold_a_lease_each(api: Api) -> None:
    tunnel = await api.tunnel()
    one, observer = await edge(api, "edge-1"), await edge(api, "edge-2")
    worker = Reporting(api, "")
    worker.headers = one.headers
    held = await wire_id(api, tunnel)
    await one.report(held)
    assert (await worker.report())["holders"] == {held: ["edge-1"]}  # by its sibling
    assert (await worker.report(held))["holders"] == {held: ["edge-1"]}
    await one.withdraw()
    assert (await worker.report(held))["holders"] == {}
    assert (await observer.report())["holders"] == {held: ["edge-1"]}
    await worker.withdraw()
    assert (await observer.report())["holders"] == {}


async def test_a_lease_that_ran_out_takes_its_links_along_and_asks_for_them_anew(api: Api) -> None:
    tunnel = await api.tunnel()
    one, observer = await edge(api, "edge-1"), await edge(api, "edge-2")
    held = await wire_id(api, tunnel)
    assert (await one.report(held))["is_known"]
    assert (await one.report(links=None))["is_known"]
    run_sql(api.config, "UPDATE leases SET expires_at = '2026-01-01 00:00:00.000000'")
    assert await ranks(api, tunnel) == {"edge-1": 2, "edge-2": 2}
    assert (await observer.report())["holders"] == {}
    assert run_sql(api.config, "SELECT count(*) FROM links") == [["0"]]
    assert not (await one.report(links=None))["is_known"]
    assert (await one.report(held))["is_known"]
    assert (await observer.report())["holders"] == {held: ["edge-1"]}


async def test_an_edge_renews_and_withdraws_its_own_lease_only(api: Api) -> None:
    tunnel = await api.tunnel()
    one, two = await edge(api, "edge-1"), await edge(api, "edge-2")
    held = await wire_id(api, tunnel)
    await one.report(held)
    thief = Reporting(api, "")
    thief.headers, thief.incarnation = two.headers, one.incarnation
    await thief.withdraw()
    body = {"incarnation": one.incarnation, "links": []}
    response = await api.http.post("/penstock/v1/edge/presence", json=body, headers=two.headers)
    assert response.status_code == 409
    assert (await two.report())["holders"] == {held: ["edge-1"]}


async def test_reports_move_no_feed_and_fill_no_audit_log(api: Api) -> None:
    one = await edge(api, "edge-1")
    before = run_sql(api.config, "SELECT version, (SELECT position FROM audit_head) FROM feed")
    await one.report("a", "b")
    assert run_sql(api.config, "SELECT version, (SELECT position FROM audit_head) FROM feed") == before


async def test_live_links_are_listed_to_those_who_may_look_at_the_tunnels_with_what_they_carry(api: Api) -> None:
    first, second = await api.tunnel(), await api.tunnel()
    one, two = await edge(api, "edge-1"), await edge(api, "edge-2")
    await one.report(await wire_id(api, first), await wire_id(api, first), str(uuid4()))
    await two.report(await wire_id(api, second))
    headers = api.bearing(api.initial.tunnels_key)

    async def links(**query: Any) -> dict[str, Any]:
        response = await api.http.get("/penstock/v1/links", params=query, headers=headers)
        return {"status": response.status_code, **response.json()}

    everything = (await links())["data"]
    assert sorted((link["tunnel_id"], link["edge"]) for link in everything) == sorted(
        [(first["id"], "edge-1"), (first["id"], "edge-1"), (second["id"], "edge-2")]
    )
    (link,) = (await links(tunnel_id=second["id"]))["data"]
    expected = {"agent_id": "c", "version": "v", "since": "2026-01-01T00:00:00Z", "streams": 0, "from_agent_bytes": 0}
    assert {name: link[name] for name in expected} == expected
    usage = {"streams": 3, "to_agent_bytes": 2**40, "from_agent_bytes": 7}
    body = {"incarnation": two.incarnation, "usage": [{"id": link["id"], **usage}, {"id": everything[0]["id"], **usage}]}
    assert (await api.http.post("/penstock/v1/edge/presence", json=body, headers=two.headers)).status_code == 200
    (link,) = (await links(tunnel_id=second["id"]))["data"]
    assert {name: link[name] for name in usage} == usage
    assert [link["streams"] for link in (await links(tunnel_id=first["id"]))["data"]] == [0, 0]  # another edge's
    page = await links(limit=2)
    rest = await links(limit=2, page=page["next_page"])
    assert [link["id"] for link in page["data"] + rest["data"]] == [link["id"] for link in (await links())["data"]]
    assert rest["next_page"] is None
    assert (await links(tunnel_id="tnl_none"))["status"] == 404
    await two.withdraw()
    assert (await links(tunnel_id=second["id"]))["data"] == []


async def test_links_are_not_shown_to_callers_nor_to_another_workspace(api: Api) -> None:
    tunnel, one = await api.tunnel(), await edge(api, "edge-1")
    await one.report(await wire_id(api, tunnel))
    assert (await api.http.get("/penstock/v1/links", headers=api.bearing(api.initial.api_key))).status_code == 403
    other = await bootstrap.create_workspace(api.config, api.initial.organization_id, "other")
    key = await bootstrap.create_api_key(api.config, other, scope="workspace:manage_tunnels")
    response = await api.http.get("/penstock/v1/links", headers=api.bearing(key.secret))
    assert (response.status_code, response.json()["data"]) == (200, [])


async def test_only_edges_report(api: Api) -> None:
    for headers in (api.http.headers, api.bearing("pst-edge-none")):
        body = {"incarnation": str(uuid4()), "links": []}
        response = await api.http.post("/penstock/v1/edge/presence", json=body, headers=dict(headers))
        assert response.status_code == 401
