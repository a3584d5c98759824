"""Where an issuer's keys come from: fetched, kept, rotated, believed for a day; and what may not be fetched."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.idp import Idp, Site, site
from tests.support.people import ok, operator, refused
from tests.support.workloads import AUDIENCE, Workload, workload

from penstock.control.config import Federation
from penstock.control.federation import jwks
from penstock.control.federation.fetch import Fetch, is_public
from penstock.control.federation.urls import Url
from penstock.errors import UnavailableError
from penstock.net.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio


@pytest.fixture
async def idp_site() -> AsyncIterator[Site]:
    async with site() as made:
        yield made


@pytest.fixture
async def begin(start_api: Callable[..., Any], idp_site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A workload whose issuer's keys are at the site."""
    # The poller looks often, and what the tests wait for is what it did.
    monkeypatch.setattr("penstock.control.service.issuer_keys._TICK", 0.02)

    async def start(
        jwks: dict[str, Any] | None = None, idp: Idp | None = None, *, limits: dict[str, Any] | None = None, **federation: Any
    ) -> Workload:
        settings = {"allowed_hosts": [f"localhost:{idp_site.port}"], "fetch_seconds": 1, **federation}
        api: Api = await start_api(public_url=AUDIENCE, federation=settings, limits=limits or {})
        source = jwks or {"type": "explicit_url", "url": idp_site.url("/jwks")}
        return await workload(api, idp, jwks={"ca_cert_pem": idp_site.ca_pem, **source})

    return start


async def issuer_when(one: Workload, holds: Callable[[Any], bool]) -> Any:
    """The issuer, once it is so."""
    while not holds(issuer := await one.boss.get(f"/v1/organizations/federation_issuers/{one.issuer['id']}")):
        pass
    return issuer


async def test_keys_are_found_by_discovery(begin: Callable[..., Any], idp_site: Site) -> None:
    idp = Idp()
    idp_site.documents["/realm/.well-known/openid-configuration"] = (
        f'{{"issuer": "any", "jwks_uri": "{idp_site.url("/jwks")}"}}'.encode()
    )
    idp_site.publish(idp)
    one = await begin({"type": "discovery", "discovery_base": idp_site.url("/realm/")}, idp)
    assert ok(await one.exchange())
    issuer = await issuer_when(one, lambda issuer: issuer["poll_status"]["last_fetched_at"] is not None)
    assert issuer["poll_status"]["consecutive_failures"] == 0


async def test_keys_are_fetched_once_and_a_new_one_is_found_when_it_is_met(begin: Callable[..., Any], idp_site: Site) -> None:
    old, new = Idp("old"), Idp("new")
    idp_site.publish(old)
    one = await begin(idp=old, refresh_interval=0)
    for _ in range(3):
        assert ok(await one.exchange())
    assert idp_site.asked == ["/jwks"]
    idp_site.publish(new)
    assert ok(await one.exchange(new.sign()))
    assert idp_site.asked == ["/jwks", "/jwks"]
    await one.denied("key_not_found", old.sign())  # withdrawn


async def test_a_strangers_garbage_makes_one_fetch_a_minute(begin: Callable[..., Any], idp_site: Site) -> None:
    idp = Idp()
    idp_site.publish(idp)
    one = await begin(idp=idp)
    assert ok(await one.exchange())
    before = len(idp_site.asked)
    for number in range(5):
        await one.denied("key_not_found", Idp(f"made-up-{number}").sign())
    assert len(idp_site.asked) <= before + 1


async def test_polling_brings_a_new_key_before_its_first_use(begin: Callable[..., Any], idp_site: Site) -> None:
    idp_site.publish(Idp("old"))
    one = await begin(poll_interval=0.05)
    await issuer_when(one, lambda issuer: issuer["poll_status"]["last_fetched_at"] is not None)
    idp = Idp("new")
    idp_site.publish(idp)
    before = len(idp_site.asked)
    await issuer_when(one, lambda _: len(idp_site.asked) > before + 1)
    assert ok(await one.exchange(idp.sign()))


async def test_an_outage_keeps_known_keys_and_pauses_polling_until_an_admin_turns_it_on(
    begin: Callable[..., Any], idp_site: Site
) -> None:
    idp = Idp()
    idp_site.publish(idp)
    one = await begin(idp=idp, poll_interval=0.01, pause_after=3)
    await issuer_when(one, lambda issuer: issuer["poll_status"]["last_fetched_at"] is not None)
    idp_site.documents["/jwks"] = (503, b"")
    issuer = await issuer_when(one, lambda issuer: issuer["jwks_polling_disabled_at"] is not None)
    assert issuer["poll_status"]["consecutive_failures"] == 3
    assert issuer["poll_status"]["next_poll_at"] is None
    assert ok(await one.exchange())
    await one.denied("key_not_found", Idp("k2").sign())
    idp_site.publish(idp, Idp("k2"))
    path = f"/v1/organizations/federation_issuers/{one.issuer['id']}"
    refused(await one.boss.send("POST", path, json={"jwks_polling_disabled": True}), 400)
    assert (await one.boss.post(path, {"jwks_polling_disabled": False}))["jwks_polling_disabled_at"] is None
    await issuer_when(one, lambda issuer: issuer["poll_status"]["consecutive_failures"] == 0)


async def test_keys_that_were_not_fetched_for_a_day_are_believed_no_longer(begin: Callable[..., Any], idp_site: Site) -> None:
    idp = Idp()
    idp_site.publish(idp)
    one = await begin(idp=idp, refresh_interval=0)
    assert ok(await one.exchange())
    idp_site.documents["/jwks"] = (503, b"")
    with closing(sqlite3.connect(one.api.config.database_file)) as connection, connection:
        connection.execute("UPDATE federation_issuers SET fetched_at = '2026-01-01 00:00:00.000000'")
    await one.denied("jwks_stale")


async def test_a_rule_that_was_archived_while_its_issuers_keys_were_fetched_gives_no_token(
    begin: Callable[..., Any], idp_site: Site
) -> None:
    idp = Idp()
    idp_site.publish(idp)
    one = await begin(idp=idp, fetch_seconds=10, refresh_interval=0)
    await issuer_when(one, lambda issuer: issuer["poll_status"]["last_fetched_at"] is not None)
    new = Idp("new")
    idp_site.publish(idp, new)
    idp_site.hangs = True
    exchange = Tasks().spawn(one.exchange(new.sign()), "exchange")
    while not idp_site.kept:
        await asyncio.sleep(0.01)
    await one.boss.post(f"/v1/organizations/federation_rules/{one.rule['id']}/archive")
    idp_site.resume()
    refused(await exchange, 401, "Authentication failed")
    assert await one.reason() == "rule_changed"


async def test_what_one_issuer_answers_ends_nobodys_polling(begin: Callable[..., Any], idp_site: Site) -> None:
    idp = Idp()
    idp_site.publish(idp)
    one = await begin(idp=idp, poll_interval=0.1)
    for number, key in enumerate(({"kid": "k1", "kty": []}, {"kid": "k1", "kty": "EC", "key_ops": 5})):
        path = f"/odd-{number}"
        idp_site.documents[path] = json.dumps({"keys": [key]}).encode()
        source = {"type": "explicit_url", "url": idp_site.url(path), "ca_cert_pem": idp_site.ca_pem}
        body = {"name": f"odd-{number}", "issuer_url": "https://odd.example.com", "jwks": source}
        await one.boss.post("/v1/organizations/federation_issuers", body)
        while path not in idp_site.asked:
            await asyncio.sleep(0.01)
        before = idp_site.asked.count("/jwks")
        async with asyncio.timeout(10):
            while idp_site.asked.count("/jwks") < before + 2:
                await asyncio.sleep(0.01)


async def test_the_issuers_of_a_suspended_organization_are_asked_no_more(begin: Callable[..., Any], idp_site: Site) -> None:
    idp = Idp()
    idp_site.publish(idp)
    one = await begin(idp=idp, poll_interval=0.1)
    await issuer_when(one, lambda _: idp_site.asked.count("/jwks") > 2)
    organization = f"/penstock/v1/organizations/{one.api.initial.organization_id}"
    owner = await operator(one.api)
    await owner.post(f"{organization}/suspend")
    await asyncio.sleep(0.1)  # what was on its way
    before = len(idp_site.asked)
    await asyncio.sleep(0.4)
    assert len(idp_site.asked) == before
    await owner.post(f"{organization}/resume")
    async with asyncio.timeout(10):
        while len(idp_site.asked) == before:
            await asyncio.sleep(0.01)


async def test_exchanges_that_wait_for_a_slow_issuer_leave_places_to_others(begin: Callable[..., Any], idp_site: Site) -> None:
    idp_site.hangs = True
    one = await begin(fetch_seconds=10, limits={"requests": 16})
    tasks = Tasks()
    waiting = [tasks.spawn(one.exchange(), "exchange") for _ in range(16)]
    answered = asyncio.as_completed(waiting)
    for _ in range(14):
        refused(await next(answered), 529, "too many exchanges wait")
    assert ok(await one.api.http.get("/v1/tunnels")) is not None
    idp_site.resume()
    answers = await asyncio.gather(*waiting)
    assert sorted(answer.status_code for answer in answers) == [401] * 2 + [529] * 14


@pytest.mark.parametrize(
    "answer",
    [
        (404, b"{}"),
        (302, b""),
        b"not json",
        b"[]",
        b'{"keys": 5}',
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "kid": "k1", "k": "AAAA"}]}',
        b"[" * 100_000,
        b" " * 300_000,
    ],
)
async def test_an_answer_that_is_no_key_set_is_an_outage(idp_site: Site, answer: Any) -> None:
    idp_site.documents["/jwks"] = answer
    fetch = Fetch(Federation(allowed_hosts=(f"localhost:{idp_site.port}",)))
    with pytest.raises((UnavailableError, ValueError)):
        jwks.parse(await fetch.get(Url.parse(idp_site.url("/jwks")), idp_site.ca_pem))
    assert "/elsewhere" not in idp_site.asked


async def test_an_issuer_that_hangs_or_shows_another_certificate_is_an_outage(idp_site: Site) -> None:
    allowed = (f"localhost:{idp_site.port}",)
    with pytest.raises(UnavailableError, match=r"(?i)certificate"):
        await Fetch(Federation(allowed_hosts=allowed)).get(Url.parse(idp_site.url("/jwks")), None)
    fetch = Fetch(Federation(allowed_hosts=allowed, fetch_seconds=0.3))
    idp_site.hangs = True
    with pytest.raises(UnavailableError, match="took over"):
        await fetch.get(Url.parse(idp_site.url("/jwks")), idp_site.ca_pem)
    async with site("other.example.com") as other:
        fetch = Fetch(Federation(allowed_hosts=(f"localhost:{other.port}",)))
        with pytest.raises(UnavailableError, match=r"(?i)hostname"):
            await fetch.get(Url.parse(other.url("/jwks")), other.ca_pem)
        assert other.asked == []


async def test_a_public_name_with_a_private_answer_is_not_dialled(idp_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # The rebinding name: it resolves to this machine. Nothing is dialled, for the answer is what is checked.
    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", ("93.184.215.14", 443)), (2, 1, 6, "", ("127.0.0.1", idp_site.port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    fetch = Fetch(Federation())
    url = Url.parse("https://rebound.example.com/jwks")
    with pytest.raises(UnavailableError, match="public addresses"):
        await fetch.get(url, idp_site.ca_pem)
    with pytest.raises(ValueError, match="public addresses"):
        await fetch.check(url)
    assert idp_site.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_is_what_the_internet_routes(address: str, *, public: bool) -> None:
    assert is_public(ip_address(address)) is public
