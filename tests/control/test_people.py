"""People sign in, have a role and two grants, and lose them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.people import Person, admin, another, ok, operator, refused, sign_in

from penstock.control.auth import attempts, passwords
from penstock.control.service.bootstrap import create_operator, reset_password
from penstock.errors import ConfigError
from penstock.net.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio

BETA = {"anthropic-beta": "mcp-tunnels-2026-06-22"}


async def test_the_first_admin_signs_in_and_manages_tunnels_in_the_default_workspace(api: Api) -> None:
    person = await admin(api)
    me = await person.get("/penstock/v1/me")
    assert (me["type"], me["workspace_id"]) == ("user", api.initial.workspace_id)
    assert {"org:admin", "workspace:manage_tunnels", "org:manage_federation"} <= set(me["scopes"])
    tunnel = await person.post("/v1/tunnels", {}, headers=BETA)
    assert (await api.http.get(f"/v1/tunnels/{tunnel['id']}")).status_code == 200


async def test_whoever_cannot_sign_in_learns_nothing_but_that(api: Api) -> None:
    answers = [
        await sign_in(api, api.initial.admin_email, "wrong"),
        await sign_in(api, "nobody@example.com", "wrong"),
        await sign_in(api, api.initial.operator_email, api.initial.admin_password.reveal()),
        await sign_in(api, "", ""),
        await sign_in(api, "x" * 5000, "x" * 5000),
    ]
    for answer in answers:
        refused(answer, 401)
        assert answer.json()["error"] == answers[0].json()["error"]


async def test_a_refused_sign_in_costs_a_commit_whether_or_not_there_is_somebody(api: Api) -> None:
    with closing(sqlite3.connect(api.config.database_file)) as watching:
        for email in (api.initial.admin_email, "nobody@example.com"):
            before = watching.execute("PRAGMA data_version").fetchone()
            refused(await sign_in(api, email, "wrong"), 401)
            assert watching.execute("PRAGMA data_version").fetchone() != before


async def test_an_address_may_be_tried_ten_times_in_a_quarter_of_an_hour(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(10):
        refused(await sign_in(api, api.initial.admin_email, "wrong"), 401)
    right = api.initial.admin_password.reveal()
    spent = await sign_in(api, api.initial.admin_email, right)
    refused(spent, 429)
    assert 800 < int(spent.headers["retry-after"]) <= 900
    assert (await sign_in(api, api.initial.operator_email, api.initial.operator_password.reveal())).is_success
    monkeypatch.setattr(attempts, "_WINDOW_SECONDS", 0.0)
    assert (await sign_in(api, api.initial.admin_email, right)).is_success


async def test_many_tries_at_once_are_ten_too(api: Api) -> None:
    answers = await asyncio.gather(*(sign_in(api, api.initial.admin_email, "wrong") for _ in range(25)))
    assert sorted(answer.status_code for answer in answers) == [401] * 10 + [429] * 15


async def test_right_sign_ins_are_no_tries(api: Api) -> None:
    for _ in range(12):
        assert (await sign_in(api, api.initial.admin_email, api.initial.admin_password.reveal())).is_success


async def test_a_wrong_password_takes_as_long_whoever_it_is_tried_on(api: Api) -> None:
    async def took(email: str) -> float:
        began = time.process_time()  # of a core: other processes do not count
        refused(await sign_in(api, email, "wrong"), 401)
        return time.process_time() - began

    boss = await admin(api)
    await boss.post("/penstock/v1/users", {"email": "new@example.com"})  # with the password that was made for them
    nobody = min([await took("nobody@example.com") for _ in range(3)])
    somebody = min([await took("new@example.com") for _ in range(3)])
    assert somebody > nobody * 0.7


async def test_a_password_that_was_replaced_while_it_was_looked_at_opens_no_session(api: Api) -> None:
    boss = await admin(api)
    made = await boss.post("/penstock/v1/users", {"email": "new@example.com"})
    free = threading.Event()
    for _ in range(2):
        passwords._threads.submit(free.wait)
    login = Tasks().spawn(sign_in(api, "new@example.com", made["password"]), "sign-in")
    while not passwords._threads._work_queue.qsize():
        await asyncio.sleep(0.01)
    await boss.post(f"/penstock/v1/users/{made['id']}/reset_password")
    free.set()
    refused(await login, 401)


async def test_signing_out_ends_the_session_and_a_new_password_all_of_them(api: Api) -> None:
    first, second = await admin(api), await admin(api)
    assert (await first.post("/penstock/v1/logout"))["type"] == "session_ended"
    refused(await first.send("GET", "/penstock/v1/me"), 401, "penstock login")
    old = api.initial.admin_password.reveal()
    body = {"old_password": old, "new_password": "a longer password"}
    refused(await second.send("POST", "/penstock/v1/me/password", json=body | {"old_password": "x"}), 403)
    refused(await second.send("POST", "/penstock/v1/me/password", json=body | {"new_password": "short"}), 400)
    assert (await second.send("POST", "/penstock/v1/me/password", json=body)).status_code == 204
    refused(await second.send("GET", "/penstock/v1/me"), 401)
    refused(await sign_in(api, api.initial.admin_email, old), 401)
    assert (await sign_in(api, api.initial.admin_email, "a longer password")).is_success


async def test_a_session_ends_by_itself(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(session_lifetime=0.05)
    person = await admin(api)
    while (response := await person.send("GET", "/penstock/v1/me")).is_success:
        pass
    refused(response, 401)


async def test_managing_tunnels_and_managing_federation_are_granted_apart(api: Api) -> None:
    boss = await admin(api)
    person = await another(api, boss)
    tunnels = ("POST", "/v1/tunnels")
    assert (await person.send("GET", "/v1/tunnels", headers=BETA)).is_success  # may look
    refused(await person.send(*tunnels, json={}, headers=BETA), 403, "workspace:manage_tunnels")
    await boss.post(f"/v1/organizations/users/{person.id}", {"manage_tunnels": True})
    assert (await person.send(*tunnels, json={}, headers=BETA)).is_success
    me = await person.get("/penstock/v1/me")
    assert "org:manage_federation" not in me["scopes"]
    await boss.post(f"/v1/organizations/users/{person.id}", {"manage_tunnels": False, "manage_federation": True})
    assert "org:manage_federation" in (await person.get("/penstock/v1/me"))["scopes"]
    refused(await person.send(*tunnels, json={}, headers=BETA), 403)


async def test_only_admins_manage_people(api: Api) -> None:
    boss = await admin(api)
    person = await another(api, boss, manage_tunnels=True, manage_federation=True)
    for method, path in (
        ("GET", "/v1/organizations/users"),
        ("POST", f"/v1/organizations/users/{person.id}"),
        ("POST", f"/penstock/v1/users/{boss.id}/reset_password"),
        ("DELETE", f"/v1/organizations/users/{boss.id}"),
        ("GET", "/v1/organizations/api_keys"),
        ("POST", "/v1/organizations/workspaces"),
    ):
        refused(await person.send(method, path, json={"role": "admin", "name": "x"} if method == "POST" else None), 403)
    refused(await api.http.get("/v1/organizations/users"), 403)  # a Tunnels API key


async def test_the_last_admin_stays_one(api: Api) -> None:
    boss = await admin(api)
    refused(await boss.send("DELETE", f"/v1/organizations/users/{boss.id}"), 400, "last admin")
    refused(await boss.send("POST", f"/v1/organizations/users/{boss.id}", json={"role": "user"}), 400, "last admin")
    second = await another(api, boss, role="admin")
    assert (await second.send("DELETE", f"/v1/organizations/users/{boss.id}")).json()["type"] == "user_deleted"
    refused(await boss.send("GET", "/penstock/v1/me"), 401)
    # The address is free again.
    assert (await another(api, second, email=api.initial.admin_email)).id != boss.id


async def test_an_address_is_one_person(api: Api) -> None:
    boss = await admin(api)
    body = {"email": f" {api.initial.admin_email.upper()} "}
    refused(await boss.send("POST", "/penstock/v1/users", json=body), 409)


async def test_users_are_listed_in_pages_both_ways(api: Api) -> None:
    boss = await admin(api)
    made = [(await boss.post("/penstock/v1/users", {"email": f"u{n}@example.com"}))["id"] for n in range(4)]
    newest_first = [*reversed(made), boss.id]
    first = await boss.get("/v1/organizations/users", params={"limit": 2})
    assert [user["id"] for user in first["data"]] == newest_first[:2]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, newest_first[0], newest_first[1])
    rest = await boss.get("/v1/organizations/users", params={"limit": 3, "after_id": first["last_id"]})
    assert [user["id"] for user in rest["data"]] == newest_first[2:]
    assert rest["has_more"] is False
    back = await boss.get("/v1/organizations/users", params={"limit": 2, "before_id": newest_first[4]})
    assert [user["id"] for user in back["data"]] == newest_first[2:4]
    assert back["has_more"] is True
    refused(await boss.send("GET", "/v1/organizations/users", params={"after_id": "user_x"}), 400)


async def test_one_organizations_admin_finds_nothing_of_another(api: Api) -> None:
    boss, chief = await admin(api), await operator(api)
    made = await chief.post("/penstock/v1/organizations", {"name": "other", "admin_email": "admin@other.example"})
    stranger = Person(api, ok(await sign_in(api, made["admin_email"], made["admin_password"])))
    key = await boss.post("/penstock/v1/api_keys", {"name": "k"})
    for path in (
        f"/v1/organizations/users/{boss.id}",
        f"/v1/organizations/workspaces/{api.initial.workspace_id}",
        f"/v1/organizations/api_keys/{key['id']}",
    ):
        refused(await stranger.send("GET", path), 404)
        refused(await stranger.send("POST", path, json={"name": "mine"}), 404)
    listed = await stranger.get("/v1/organizations/users")
    assert [user["email"] for user in listed["data"]] == ["admin@other.example"]
    own = {"anthropic-workspace-id": api.initial.workspace_id}
    refused(await stranger.send("GET", "/penstock/v1/me", headers=own), 400)


async def test_who_owns_the_machine_makes_operators_and_lets_people_in_again(api: Api) -> None:
    made = await create_operator(api.config, "second@example.com")
    second = Person(api, ok(await sign_in(api, "second@example.com", made.reveal())))
    assert (await second.get("/penstock/v1/me"))["type"] == "operator"
    with pytest.raises(ConfigError):
        await create_operator(api.config, "second@example.com")
    boss = await admin(api)
    new = await reset_password(api.config, api.initial.admin_email)
    refused(await boss.send("GET", "/penstock/v1/me"), 401)
    refused(await sign_in(api, api.initial.admin_email, api.initial.admin_password.reveal()), 401)
    assert (await sign_in(api, api.initial.admin_email, new.reveal())).is_success
    with pytest.raises(ConfigError, match="no user"):
        await reset_password(api.config, "nobody@example.com")
