"""People sign in by an identity provider: the whole flow, with a browser that is a function."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from tests.support.idp import Idp, Site, site
from tests.support.people import Person, admin, ok, refused

from penstock.client import browser
from penstock.client.sessions import SignIn
from penstock.errors import IdentityError, PenstockError, UnavailableError
from penstock.net.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio


@dataclass
class World:
    api: Api
    site: Site
    idp: Idp

    async def sign_in(self, **claims: Any) -> Any:
        """What `penstock login` does, with a provider that answers at once."""
        async with SignIn(self.api.control.url) as control:
            method = (await control.methods()).oidc
            assert method is not None
            visits = Tasks()
            code = await browser.ask(method, lambda url: visits.spawn(self._visit(url, claims), "browser"), patience=5)
            await visits.aclose()
            return await control.with_code(code)

    async def _visit(self, url: str, claims: dict[str, Any]) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert query["code_challenge_method"] == "S256"
        answer = {"aud": query["client_id"], "nonce": query["nonce"], "email": "new@example.com", "email_verified": True}
        token = self.idp.sign(**(answer | claims))
        self.site.documents["/token"] = json.dumps({"id_token": token}).encode()
        async with httpx2.AsyncClient(trust_env=False) as http:
            # A stranger's page cannot finish it: it does not know the state.
            wrong = await http.get(query["redirect_uri"], params={"code": "stolen", "state": "guessed"})
            assert wrong.status_code == 404
            await http.get(query["redirect_uri"], params={"code": "good", "state": query["state"]})


@pytest.fixture
async def world(start_api: Callable[..., Any]) -> AsyncIterator[World]:
    async with site() as made:
        idp = Idp(issuer=made.url())
        made.publish(idp)
        ca = made.ca_pem
        made.documents["/.well-known/openid-configuration"] = json.dumps(
            {
                "issuer": made.url(),
                "authorization_endpoint": made.url("/auth"),
                "token_endpoint": made.url("/token"),
                "jwks_uri": made.url("/jwks"),
            }
        ).encode()
        api: Api = await start_api()
        file = api.config.data_dir / "idp.pem"
        file.write_text(ca)
        oidc = {"issuer_url": made.url(), "client_id": "penstock", "client_secret": "s3cret", "ca_file": str(file)}
        yield World(await start_api("with-oidc", oidc=oidc), made, idp)


async def test_a_user_that_an_admin_added_signs_in_and_keeps_being_the_same(world: World) -> None:
    boss = await admin(world.api)
    user = await boss.post("/penstock/v1/users", {"email": "new@example.com"})
    session = await world.sign_in()
    assert (session.user_id, session.email) == (user["id"], "new@example.com")
    person = Person(world.api, session.model_dump())
    assert (await person.get("/penstock/v1/me"))["id"] == user["id"]
    # From now on the provider's own id counts: another address is the same person, and the address alone is nobody.
    assert (await world.sign_in(email="married@example.com")).user_id == user["id"]
    with pytest.raises(IdentityError):
        await world.sign_in(sub="somebody else")


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "stranger@example.com"},
        {"email_verified": False},
        {"email_verified": "true"},
        {"aud": "another client"},
        {"aud": ["penstock", "other"]},
        {"nonce": "another attempt"},
        {"nonce": None},
        {"iss": "https://other.example.com"},
        {"exp": 1},
    ],
)
async def test_what_the_provider_does_not_vouch_for_is_refused(world: World, claims: dict[str, Any]) -> None:
    await (await admin(world.api)).post("/penstock/v1/users", {"email": "new@example.com"})
    with pytest.raises(IdentityError):
        await world.sign_in(**claims)


async def test_a_provider_that_fails_is_no_ones_sign_in(world: World) -> None:
    world.site.documents["/token"] = (400, b'{"error": "invalid_grant"}')
    body = {"code": "x", "code_verifier": "y", "redirect_uri": "http://127.0.0.1:1/callback", "nonce": "n"}
    refused(await world.api.http.post("/penstock/v1/login/oidc", json=body), 401)
    world.site.documents["/token"] = b"{}"
    refused(await world.api.http.post("/penstock/v1/login/oidc", json=body), 401)


async def test_without_a_provider_there_are_passwords(api: Api) -> None:
    assert ok(await api.http.get("/penstock/v1/login")) == {"password": True, "oidc": None}
    body = {"code": "x", "code_verifier": "y", "redirect_uri": "http://127.0.0.1:1/callback", "nonce": "n"}
    refused(await api.http.post("/penstock/v1/login/oidc", json=body), 404)


async def test_a_person_who_never_comes_back_or_is_refused_is_told(world: World) -> None:
    async with SignIn(world.api.control.url) as control:
        method = (await control.methods()).oidc
        assert method is not None
    with pytest.raises(UnavailableError, match="in time"):
        await browser.ask(method, lambda _: None, patience=0.05)
    visits = Tasks()

    async def deny(url: str) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        async with httpx2.AsyncClient(trust_env=False) as http:
            await http.get(query["redirect_uri"], params={"error": "access_denied", "state": query["state"]})

    with pytest.raises(PenstockError, match="refused") as caught:
        await browser.ask(method, lambda url: visits.spawn(deny(url), "browser"), patience=5)
    assert caught.value.detail == "access_denied"
    await visits.aclose()


async def test_a_provider_that_hangs_takes_nobodys_place(world: World, start_api: Callable[..., Any]) -> None:
    """Its first answer is waited for by a few; strangers who ask for it meanwhile are told to come back."""
    config = world.api.config
    assert config.oidc is not None
    oidc = {**config.oidc.model_dump(exclude={"client_secret"}), "ca_file": str(config.oidc.ca_file)}
    world.site.hangs = True
    busy: Api = await start_api("busy", oidc=oidc, limits={"requests": 24})
    tasks = Tasks()
    waiting = [tasks.spawn(busy.http.get("/penstock/v1/login"), "login") for _ in range(20)]
    answered = asyncio.as_completed(waiting)
    for _ in range(4):
        refused(await next(answered), 529, "identity provider")
    async with asyncio.timeout(10):
        for _ in range(12):
            refused(await busy.http.get("/penstock/v1/login"), 529, "identity provider")
        assert ok(await busy.http.get("/v1/tunnels")) is not None
    world.site.resume()
    assert sorted(answer.status_code for answer in await asyncio.gather(*waiting)) == [200] * 16 + [529] * 4
