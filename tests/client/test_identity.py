from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca
from tests.support.control import api, database, start_api
from tests.support.handshake import shake

from penstock.client.control import ControlClient
from penstock.client.identity import CallerCredentials
from penstock.errors import IdentityError, UnavailableError
from penstock.secret import Secret
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
async def client(api: Api) -> AsyncIterator[ControlClient]:
    async with ControlClient(api.control.url, api.initial.api_key) as made:
        yield made


async def test_one_certificate_serves_many_streams_opened_at_once(api: Api, client: ControlClient) -> None:
    credentials = CallerCredentials(client)
    pairs = await asyncio.gather(*(credentials.pair() for _ in range(20)))
    assert len({pair.certificate_pem for pair in pairs}) == 1
    identity = await credentials.identity()
    assert identity.workspace_id == api.initial.workspace_id


async def test_its_contexts_are_accepted_by_an_edge_and_by_a_proxy_of_this_platform(client: ControlClient) -> None:
    credentials = CallerCredentials(client)
    callers_ca, tunnel, edge = await client.caller_ca(), ca.ca(), ca.ca("edges")
    proxy = contexts.proxy_inner(ca.server(tunnel), [callers_ca], "require")
    inner = shake(await credentials.inner([tunnel.certificate_pem]), proxy, ca.HOST)
    assert (inner.client_error, inner.server_error) == (None, None)
    name = "edge-1.edge.penstock.internal"
    outer = shake(
        await credentials.outer(edge.certificate_pem), contexts.edge_callers(ca.server(edge, name), [callers_ca]), name
    )
    assert (outer.client_error, outer.server_error) == (None, None)


async def test_contexts_are_kept_while_the_certificate_is_and_no_more_than_a_few(client: ControlClient) -> None:
    credentials = CallerCredentials(client)
    anchor = ca.ca().certificate_pem
    first = await credentials.inner([anchor])
    assert await credentials.inner([anchor]) is first
    assert await credentials.outer(anchor) is not first
    for number in range(100):
        await credentials.inner([anchor] * (number + 2))
    assert len(credentials._contexts) <= 64


async def test_it_is_renewed_with_a_new_key_when_two_thirds_of_its_life_are_over(client: ControlClient) -> None:
    clock = Clock()
    credentials = CallerCredentials(client, now=clock)
    first = await credentials.pair()
    anchor = ca.ca().certificate_pem
    context = await credentials.inner([anchor])
    clock.time += timedelta(hours=15)
    assert await credentials.pair() is first
    clock.time += timedelta(hours=2)
    second = await credentials.pair()
    assert second.certificate_pem != first.certificate_pem
    assert second.key_pem != first.key_pem
    assert await credentials.inner([anchor]) is not context


async def test_an_outage_of_control_is_survived_while_the_certificate_holds(api: Api, client: ControlClient) -> None:
    clock = Clock()
    credentials = CallerCredentials(client, now=clock)
    first = await credentials.pair()
    await api.control.stop()
    clock.time += timedelta(hours=20)
    assert await credentials.pair() is first
    clock.time += timedelta(hours=5)
    with pytest.raises(UnavailableError):
        await credentials.pair()


async def test_without_a_valid_key_there_are_no_credentials(api: Api) -> None:
    async with ControlClient(api.control.url, Secret("pst-key-wrong")) as stranger:
        with pytest.raises(IdentityError):
            await CallerCredentials(stranger).pair()


async def test_a_certificate_for_another_key_is_refused(client: ControlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    request: Callable[[str], Any] = client.caller_certificate

    async def swapped(_: str) -> Any:
        return await request(certs.make_csr(certs.make_ec_key(), "theirs"))

    monkeypatch.setattr(client, "caller_certificate", swapped)
    with pytest.raises(UnavailableError, match="another key"):
        await CallerCredentials(client).pair()


async def test_an_expired_answer_is_refused(start_api: Callable[..., Any]) -> None:
    short: Api = await start_api("short", caller_certificate_lifetime=0)
    async with ControlClient(short.control.url, short.initial.api_key) as made:
        with pytest.raises(IdentityError):
            await CallerCredentials(made).pair()
