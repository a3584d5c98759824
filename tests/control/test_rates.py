"""How often somebody may ask: the buckets, and what a client sees of them."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.api import rates
from penstock.control.api.addresses import site
from penstock.control.api.rates import Buckets, RequestRates
from penstock.control.config import Rate, Rates

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.control import Api

pytestmark = pytest.mark.anyio


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- the buckets ----------------------------------------------------------------------------------------------------------


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    clock = Clock()
    buckets = Buckets("x", Rate(per_minute=60, burst=3), clock)
    assert [buckets.take("a").remaining for _ in range(3)] == [2, 1, 0]
    refused = buckets.take("a")
    assert (refused.remaining, refused.wait, refused.full_in) == (0, pytest.approx(1.0), pytest.approx(3.0))
    assert buckets.take("b").wait == 0  # another's is full
    clock.now += refused.wait
    assert buckets.take("a").wait == 0
    assert buckets.take("a").wait == pytest.approx(1.0)
    clock.now += 1000
    assert buckets.take("a").remaining == 2


@given(st.integers(1, 10_000), st.integers(1, 100), st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=120))
def test_no_pattern_of_asking_gets_more_than_burst_and_rate(per_minute: int, burst: int, pauses: list[float]) -> None:
    clock = Clock()
    buckets = Buckets("x", Rate(per_minute=per_minute, burst=burst), clock)
    began = clock.now
    for given_out, pause in enumerate(pauses, start=1):
        clock.now += pause
        taken = buckets.take("a")
        assert 0 <= taken.remaining < burst or (taken.remaining == 0 and taken.wait > 0)
        if taken.wait:
            clock.now += taken.wait  # whoever waits as told is served
            assert buckets.take("a").wait == 0
        assert given_out <= burst + (clock.now - began) * per_minute / 60 + 1e-3


def test_strangers_cannot_make_it_remember_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_REMEMBERED", 10)
    buckets = Buckets("x", Rate(per_minute=1, burst=1), Clock())
    for number in range(50):
        assert buckets.take(str(number)).wait == 0
    assert len(buckets._full_at) == 10
    assert buckets.take("49").wait > 0  # the latest is still known


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
    ],
)
def test_an_ipv6_address_stands_for_its_64(one: str, other: str, is_same: bool) -> None:
    assert (site(one) == site(other)) is is_same


def test_a_rate_may_be_off() -> None:
    off = RequestRates(Rates(key=None, address=None, sign_in=None, exchange=None))
    assert off.take("POST", "/v1/oauth/token", "192.0.2.1", "pst-key-x") is None


# --- what a client sees ---------------------------------------------------------------------------------------------------


def _only(**wanted: Any) -> dict[str, Any]:
    return {"rates": {"key": None, "address": None, "sign_in": None, "exchange": None, **wanted}}


SLOW = {"per_minute": 1, "burst": 2}


def _refused(response: httpx2.Response, whose: str) -> None:
    assert response.status_code == 429, response.text
    body = response.json()
    assert body["error"]["type"] == "rate_limit_error"
    assert f"too many requests {whose}" in body["error"]["message"]
    assert body["request_id"] == response.headers["request-id"]
    assert 50 <= int(response.headers["retry-after"]) <= 60


async def test_a_credential_over_its_rate_gets_the_published_429_and_others_go_on(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits=_only(key=SLOW))
    first = await api.http.get("/v1/tunnels")
    assert first.headers["anthropic-ratelimit-requests-limit"] == "2"
    assert first.headers["anthropic-ratelimit-requests-remaining"] == "1"
    reset = datetime.fromisoformat(first.headers["anthropic-ratelimit-requests-reset"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < reset < timedelta(seconds=61)
    # The same key in the other style is the same credential.
    api.http.headers["x-api-key"] = api.initial.tunnels_key.reveal()
    assert (await api.http.get("/v1/tunnels")).status_code == 200
    refused = await api.http.post("/v1/tunnels", json={"display_name": "x"})
    _refused(refused, "with this credential")
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
    del api.http.headers["x-api-key"]
    assert (await api.http.get("/penstock/v1/callers/ca")).status_code == 200  # another key


async def test_a_large_answer_costs_as_many_requests_as_it_weighs_up_to_half_the_bucket(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits=_only(key={"per_minute": 1, "burst": 20}))
    large, small = api.bearing(api.initial.tunnels_key), api.bearing(api.initial.api_key)
    for _ in range(2):
        document = await api.http.get("/openapi.json", headers=large, timeout=60)
        assert (document.status_code, len(document.content) >> 14 >= 10) == (200, True)
    refused = await api.http.get("/openapi.json", headers=large)
    assert (refused.status_code, "with this credential" in refused.text) == (429, True)
    for _ in range(20):
        assert (await api.http.get("/penstock/v1/me", headers=small)).status_code == 200


def test_what_edges_are_told_costs_them_a_request_whatever_it_weighs() -> None:
    rates = RequestRates(Rates(key=Rate(per_minute=1, burst=4)))
    for _ in range(4):
        taken = rates.take("GET", "/penstock/v1/edge/snapshot", "192.0.2.1", "pst-edge-x")
        assert taken is not None
        assert taken.wait == 0
        rates.answered("/penstock/v1/edge/snapshot", "pst-edge-x", 100 << 20)


async def test_an_address_over_its_rate_is_refused_whatever_it_presents_and_probes_are_not_counted(
    start_api: Callable[..., Any],
) -> None:
    api: Api = await start_api(limits=_only(address=SLOW))
    for number in range(2):
        assert (await api.http.get("/v1/tunnels", headers=api.bearing(f"pst-key-{number}"))).status_code == 401
    _refused(await api.http.get("/v1/tunnels"), "from this address")
    assert (await api.http.get("/healthz")).status_code == 200
    assert (await api.http.get("/readyz")).status_code == 200


async def test_strangers_who_sign_in_or_exchange_too_often_are_refused_before_anything_is_computed(
    start_api: Callable[..., Any],
) -> None:
    api: Api = await start_api(limits=_only(sign_in=SLOW, exchange=SLOW))
    login = {"email": api.initial.admin_email, "password": api.initial.admin_password.reveal()}
    for path, body, status, whose in (
        ("/penstock/v1/login", login, 200, "to sign in from this address"),
        ("/v1/oauth/token", {}, 400, "for a token from this address"),
    ):
        for _ in range(2):
            assert (await api.http.post(path, json=body, headers={"authorization": ""})).status_code == status
        _refused(await api.http.post(path, json=body, headers={"authorization": ""}), whose)
    assert (await api.http.get("/penstock/v1/login")).status_code == 200  # asking how to sign in is not signing in
    assert (await api.http.get("/v1/tunnels")).status_code == 200


async def test_a_refusal_keeps_the_connection_and_what_comes_after_it_is_read_right(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits=_only(key={"per_minute": 1, "burst": 1}))
    key = api.initial.tunnels_key.reveal().encode()
    post = b"POST /v1/tunnels HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: 2\r\n\r\n{}" % key
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(api.control.address.host, api.control.address.port)
        for expected in (b"400", b"429", b"429"):  # 400: no version header; counted all the same
            writer.write(post)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == expected, head
            assert b"connection: close" not in head.lower()
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split()[1]))
        writer.close()
        await writer.wait_closed()


async def test_trusted_proxies_tell_whose_request_it_is_and_nobody_else_is_believed(start_api: Callable[..., Any]) -> None:
    behind: Api = await start_api("behind", trusted_proxies=["127.0.0.0/8"], limits=_only(address=SLOW))
    plain: Api = await start_api("plain", limits=_only(address=SLOW))
    behind_answers = [
        (await behind.http.get("/v1/tunnels", headers={"x-forwarded-for": f"203.0.113.{n // 2}"})).status_code for n in range(6)
    ]
    assert behind_answers == [200] * 6
    _refused(await behind.http.get("/v1/tunnels", headers={"x-forwarded-for": "9.9.9.9, 203.0.113.1"}), "from this address")
    plain_answers = [
        (await plain.http.get("/v1/tunnels", headers={"x-forwarded-for": f"203.0.113.{n}"})).status_code for n in range(3)
    ]
    assert plain_answers == [200, 200, 429]


async def test_the_audit_log_has_the_address_that_a_trusted_proxy_told(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(trusted_proxies=["127.0.0.1"])
    await api.http.post("/v1/tunnels", json={}, headers={"x-forwarded-for": "6.6.6.6, 203.0.113.7"})
    created = [record for record in await api.audit_records() if record["type"] == "tunnel_created"]
    assert [record["actor"]["ip_address"] for record in created] == ["203.0.113.7"]


async def test_connections_over_the_limit_are_ended_at_once(start_api: Callable[..., Any]) -> None:
    api: Api = await start_api(limits={"connections": 2})
    address = (api.control.address.host, api.control.address.port)
    async with asyncio.timeout(10):
        held = [await asyncio.open_connection(*address) for _ in range(2)]
        for reader, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")
        reader, writer = await asyncio.open_connection(*address)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        held[0][1].close()
        await held[0][1].wait_closed()
        while not await _is_served(api):  # until the server has seen it leave
            await asyncio.sleep(0.01)
        held[1][1].close()


async def test_one_address_never_holds_everybodys_connections(start_api: Callable[..., Any]) -> None:
    # Trusted proxies speak for many: theirs are not counted.
    for trusted, admitted in (((), 2), (("127.0.0.1",), 4)):
        limits = {"connections": 4, "connections_each": 2}
        api: Api = await start_api(f"c{len(trusted)}", limits=limits, trusted_proxies=trusted)
        held = [await asyncio.open_connection(api.control.address.host, api.control.address.port) for _ in range(5)]
        served = 0
        async with asyncio.timeout(10):
            for reader, writer in held:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                    served += (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")
                writer.close()
        assert served == admitted


async def _is_served(api: Api) -> bool:
    try:
        return (await api.http.get("/healthz")).status_code == 200
    except httpx2.TransportError:
        return False
