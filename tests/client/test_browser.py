"""The one request that a sign-in waits for on loopback, among others."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from penstock.client import browser
from penstock.net.tasks import Tasks
from penstock.schema.identities import OidcLogin

pytestmark = pytest.mark.anyio


async def test_a_strangers_request_is_answered_with_404_whatever_it_holds_and_the_browsers_still_counts() -> None:
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    shown: list[str] = []
    method = OidcLogin(authorization_endpoint="https://idp.example.com/auth", client_id="penstock", scope="openid")
    asking = Tasks().spawn(browser.ask(method, shown.append, patience=20), "ask")
    while not shown:
        await asyncio.sleep(0.01)
    asked = {name: values[0] for name, values in parse_qs(urlsplit(shown[0]).query).items()}
    back = asked["redirect_uri"]
    async with httpx2.AsyncClient(trust_env=False) as http:
        for state in ("guessed", "gu%C3%A9ss", "%ED%A0%80", "%00", ""):
            assert (await http.get(f"{back}?code=stolen&state={state}")).status_code == 404
        assert (await http.get(f"{back}?code=good&state={asked['state']}")).status_code == 200
    assert (await asking).code == "good"
    assert faults == []
