"""Signing in at a control plane under test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2
    from tests.support.control import Api

VERSION = {"anthropic-version": "2023-06-01"}


class Person:
    """A signed-in person: requests with their session, answers checked."""

    def __init__(self, api: Api, session: dict[str, Any]) -> None:
        self.id: str = session["user_id"]
        self.token: str = session["session_token"]
        self._api = api

    async def send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = self._api.bearing(self.token, **VERSION) | more.pop("headers", {})
        return await self._api.http.request(method, path, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> Any:
        return ok(await self.send("GET", path, **more))

    async def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return ok(await self.send("POST", path, json={} if body is None else body, **more))


def ok(response: httpx2.Response) -> Any:
    assert response.is_success, response.text
    return response.json() if response.content else None


def refused(response: httpx2.Response, status: int, text: str = "") -> None:
    assert response.status_code == status, response.text
    assert text in response.json()["error"]["message"], response.text


async def sign_in(api: Api, email: str, password: str) -> httpx2.Response:
    return await api.http.post("/penstock/v1/login", json={"email": email, "password": password}, headers={"authorization": ""})


async def admin(api: Api) -> Person:
    """The first organization's admin."""
    return Person(api, ok(await sign_in(api, api.initial.admin_email, api.initial.admin_password.reveal())))


async def operator(api: Api) -> Person:
    """The platform's first operator."""
    return Person(api, ok(await sign_in(api, api.initial.operator_email, api.initial.operator_password.reveal())))


async def another(api: Api, by: Person, **user: Any) -> Person:
    """A new user of the same organization, signed in."""
    made = await by.post("/penstock/v1/users", {"email": "other@example.com", **user})
    return Person(api, ok(await sign_in(api, made["email"], made["password"])))
