from __future__ import annotations

import asyncio
import fcntl
import functools
import itertools
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.files import without_files
from tests.support.site import Echo, Origin

from penstock.agent.isolation import interfaces, until_isolated
from penstock.errors import UnavailableError

if TYPE_CHECKING:
    from tests.support.site import Site

    from penstock.agent.server import Agent

pytestmark = pytest.mark.anyio

ETHERNET, NOTHING = frozenset({"eth0"}), frozenset[str]()


async def _watch(*seen: frozenset[str] | None, lives: bool = False) -> None:
    """`until_isolated` over what it sees, the last of it for ever; TimeoutError when it sees no reason to end."""
    looks = itertools.chain(seen, itertools.repeat(seen[-1]))

    async def has_life() -> bool:
        return lives

    async with asyncio.timeout(0.2):
        await until_isolated(has_life, look=lambda: next(looks), every=0.001)


async def test_an_agent_whose_interfaces_are_gone_for_good_ends_and_says_why() -> None:
    with pytest.raises(UnavailableError, match="the network is gone") as ended:
        await _watch(ETHERNET, ETHERNET, NOTHING)
    assert "start the agent again" in str(ended.value.hint)


@pytest.mark.parametrize(
    ("seen", "lives"),
    [
        ((NOTHING,), False),  # a machine with loopback alone
        ((ETHERNET, NOTHING, NOTHING, ETHERNET), False),  # configured anew
        ((ETHERNET, NOTHING), True),  # cut off, with the proxy still beside it; or the edge is on this machine
        ((ETHERNET,), False),
        ((None,), False),  # nobody may ask
        ((ETHERNET, NOTHING, NOTHING, None, NOTHING, NOTHING, ETHERNET), False),  # no file was left to ask with
    ],
)
async def test_otherwise_it_goes_on(seen: tuple[frozenset[str] | None, ...], lives: bool) -> None:
    with pytest.raises(TimeoutError):
        await _watch(*seen, lives=lives)


async def test_an_agent_left_behind_ends_at_once_although_its_links_have_not_died_yet(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.edge() as edge, Origin(Echo) as origin, site.agent(edge, url=origin.url, grace_period=30) as agent:
        _left_behind(agent, monkeypatch, is_local=False)
        assert origin.server is not None
        origin.server.close()  # the proxy is in another network now
        async with asyncio.timeout(5):
            with pytest.raises(UnavailableError, match="the network is gone"):
                await agent.until_failed()
            await agent.stop()  # and not after the grace period
        assert agent.links == 0


@pytest.mark.parametrize("is_local", [True, False], ids=["the edge is on this machine", "the proxy is still beside it"])
async def test_an_agent_whose_network_may_come_back_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    async with site.edge() as edge, Origin(Echo) as origin, site.agent(edge, url=origin.url) as agent:
        _left_behind(agent, monkeypatch, is_local=is_local)
        if is_local:
            assert origin.server is not None
            origin.server.close()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await agent.until_failed()
        assert agent.links == 4


async def test_an_agent_that_is_out_of_files_for_a_moment_keeps_its_links(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.agent.server.until_isolated", functools.partial(until_isolated, every=0.001))
    async with site.edge() as edge, site.agent(edge, url="http://localhost:9") as agent:
        with without_files(), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await agent.until_failed()
        assert agent.links == 4


def _left_behind(agent: Agent, monkeypatch: pytest.MonkeyPatch, *, is_local: bool) -> None:
    """The kernel takes the machine's interfaces away, and the edge was elsewhere or not."""
    assert all(link.is_local for link in agent._connections)  # as it is in truth
    for link in agent._connections:
        link.is_local = is_local
    looks = itertools.chain([ETHERNET], itertools.repeat(NOTHING))
    watch = functools.partial(until_isolated, look=lambda: next(looks), every=0.001)
    monkeypatch.setattr("penstock.agent.server.until_isolated", watch)


def test_only_interfaces_that_are_up_and_not_loopback_are_a_way_out() -> None:
    up = {link["ifname"] for link in _links() if "UP" in link["flags"] and "LOOPBACK" not in link["flags"]}
    assert interfaces() == up


def test_where_nobody_may_ask_for_interfaces_they_are_unknown_and_not_gone() -> None:
    with without_files():
        assert interfaces() is None


def _links() -> list[dict[str, Any]]:
    """What the kernel says, by a way of its own: SIOCGIFFLAGS."""
    found: list[dict[str, Any]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            answer = fcntl.ioctl(asked, 0x8913, struct.pack("16sH22x", name.encode(), 0))
            flags = struct.unpack_from("H", answer, 16)[0]
            found.append({"ifname": name, "flags": {text for bit, text in ((1, "UP"), (8, "LOOPBACK")) if flags & bit}})
    return found
