"""What is revoked at the control plane is cut at the edge, whatever it is doing, and nobody else notices."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
from tests.support.site import until

from penstock.client.access import Access
from penstock.client.control import ControlClient
from penstock.client.sessions import SignIn
from penstock.errors import PenstockError
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.world import Side, Upstream, World

    from penstock.client.streams import TunnelStreams
    from penstock.net.streams import ByteStream

pytestmark = pytest.mark.anyio

WITHIN = 5.0


@pytest.fixture(scope="module")
async def side(platform: World, upstream: Upstream) -> Side:
    return await platform.add_side({"echo": upstream.url})


async def signed_in(platform: World, who: str) -> ControlClient:
    """As the organization's admin, or as the operator of the platform."""
    initial = platform.initial
    email, password = {
        "admin": (initial.admin_email, initial.admin_password),
        "operator": (initial.operator_email, initial.operator_password),
    }[who]
    async with SignIn(platform.control.url) as door:
        session = await door.with_password(email, password)
    return ControlClient(platform.control.url, Secret(session.session_token))


async def key_disabled(platform: World, key_id: str) -> None:
    async with await signed_in(platform, "admin") as control:
        await control.ask("POST", f"/v1/organizations/api_keys/{key_id}", json={"status": "inactive"})


async def key_archived(platform: World, key_id: str) -> None:
    async with await signed_in(platform, "admin") as control:
        await control.ask("POST", f"/v1/organizations/api_keys/{key_id}", json={"status": "archived"})


async def introduced(platform: World, streams: TunnelStreams) -> None:
    """Its certificate is known at the edge: a busy machine's feed takes longer than callers are waited for here."""
    serial = (await streams._credentials.identity()).serial
    await until(lambda: serial in platform.edge.feed.directory.callers, seconds=20)


async def is_cut(pipe: ByteStream, within: float = WITHIN) -> None:
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await asyncio.wait_for(pipe.read(1), within)


@pytest.mark.parametrize("revoke", [key_disabled, key_archived], ids=lambda revoke: revoke.__name__)
async def test_a_callers_streams_are_cut_idle_or_stalled_and_anothers_go_on(
    platform: World, side: Side, upstream: Upstream, revoke: Callable[[World, str], Awaitable[None]]
) -> None:
    access, key_id = await platform.another_key()
    async with platform.streams(access) as revoked, platform.streams() as others:
        await introduced(platform, revoked)
        await introduced(platform, others)
        idle = await (await revoked.open(side.host())).start_tls()
        busy = await (await revoked.open(side.host())).start_tls()
        busy.transport.write(b"POST / HTTP/1.1\r\nhost: %s\r\ncontent-length: 30000000\r\n\r\n" % side.host().encode())
        busy.transport.write(bytes(20_000_000))  # nobody reads it
        visit = await upstream.visit()
        kept = await (await others.open(side.host())).start_tls()

        await revoke(platform, key_id)
        await asyncio.gather(is_cut(idle), is_cut(busy))
        await until(lambda: visit.is_cut, seconds=WITHIN)

        async with asyncio.TaskGroup() as group:
            await kept.write(b"GET / HTTP/1.1\r\nhost: %s\r\n\r\n" % side.host().encode())
            group.create_task((await upstream.visit()).answer())
            assert b"200 OK" in await kept.read(1000)
        with pytest.raises(PenstockError):
            await revoked.open(side.host())
        kept.transport.abort()


async def test_a_removed_persons_streams_are_cut(platform: World, side: Side) -> None:
    async with await signed_in(platform, "admin") as control:
        user = await control.ask("POST", "/penstock/v1/users", json={"email": "leaver@example.com"})
        async with SignIn(platform.control.url) as door:
            session = await door.with_password(user["email"], Secret(user["password"]))
        async with platform.streams(Access(platform.control.url, Secret(session.session_token))) as streams:
            await introduced(platform, streams)
            pipe = await (await streams.open(side.host())).start_tls()
            await control.ask("DELETE", f"/v1/organizations/users/{user['id']}")
            await is_cut(pipe)
            with pytest.raises(PenstockError):
                await streams.open(side.host())


async def test_an_archived_workspaces_streams_and_links_are_cut_and_no_others(
    platform: World, side: Side, upstream: Upstream
) -> None:
    async with await signed_in(platform, "admin") as control:
        workspace = (await control.ask("POST", "/v1/organizations/workspaces", json={"name": "closing"}))["id"]
        keys = [
            await control.ask(
                "POST",
                "/penstock/v1/api_keys",
                json={"name": "k", "workspace_id": workspace, "oauth_scope": f"workspace:{scope}"},
            )
            for scope in ("manage_tunnels", "developer")
        ]
        manager, caller = (Access(platform.control.url, Secret(key["api_key"])) for key in keys)
        closing = await platform.add_side({"echo": upstream.url}, manager=manager)
        async with platform.streams(caller) as streams, platform.streams() as others:
            for each in (streams, others):
                await introduced(platform, each)
            kept = await (await others.open(side.host())).start_tls()
            pipe = await (await streams.open(closing.host())).start_tls()
            await control.ask("POST", f"/v1/organizations/workspaces/{workspace}/archive")
            await is_cut(pipe)
            await until(lambda: closing.agent.links == 0, seconds=WITHIN)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(kept.read(1), 0.1)
            kept.transport.abort()


async def test_one_revoked_certificates_streams_are_cut_and_its_holders_next_one_serves(platform: World, side: Side) -> None:
    access, _ = await platform.another_key()
    async with platform.streams(access) as one, platform.streams(access) as twin, await signed_in(platform, "admin") as control:
        for each in (one, twin):
            await introduced(platform, each)
        pipe = await (await one.open(side.host())).start_tls()
        kept = await (await twin.open(side.host())).start_tls()
        serial = (await one._credentials.identity()).serial
        await control.ask("DELETE", f"/penstock/v1/callers/certificates/{serial}")
        await is_cut(pipe)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kept.read(1), 0.1)
        kept.transport.abort()


async def test_a_suspended_organizations_streams_and_links_are_cut_and_its_agents_come_back_with_it(
    platform: World, side: Side
) -> None:
    path = f"/penstock/v1/organizations/{platform.initial.organization_id}"
    async with platform.streams() as streams, await signed_in(platform, "operator") as control:
        await introduced(platform, streams)
        pipe = await (await streams.open(side.host())).start_tls()
        await control.ask("POST", f"{path}/suspend")
        await is_cut(pipe)
        await until(lambda: side.agent.links == 0, seconds=WITHIN)
        with pytest.raises(PenstockError):
            await streams.open(side.host())
        await control.ask("POST", f"{path}/resume")
        await until(lambda: side.agent.links == 1, seconds=60)
        await introduced(platform, streams)
        again = await (await streams.open(side.host())).start_tls()
        again.transport.abort()
