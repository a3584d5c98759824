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
from tests.support.httpproxy import HttpProxy
from tests.support.site import Echo, Origin, until

from penstock.agent.isolation import interfaces, until_isolated
from penstock.errors import UnavailableError
from penstock.secret import Secret

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


@pytest.mark.parametrize("links", [4, 0], ids=["its links have not died yet", "its links have died"])
async def test_an_agent_left_behind_ends_at_once(site: Site, monkeypatch: pytest.MonkeyPatch, links: int) -> None:
    async with (
        site.edge() as edge,
        Origin(Echo) as origin,
        site.agent(edge, url=_on_localhost(origin), grace_period=30) as agent,
    ):
        _left_behind(agent, monkeypatch, is_local=False)
        if not links:
            await edge.stop()
            await until(lambda: agent.links == 0)
        assert origin.server is not None
        origin.server.close()  # the proxy is in another network now
        async with asyncio.timeout(5):
            with pytest.raises(UnavailableError, match="the network is gone"):
                await agent.until_failed()
            await agent.stop()  # and not after the grace period
        assert agent.links == 0


async def test_an_edge_behind_a_http_proxy_on_this_machine_is_not_on_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    token = site.token("edge.test:7844")
    async with site.edge() as edge, HttpProxy({"edge.test:7844": str(edge.agents_address)}) as proxy:
        settings: dict[str, Any] = {"token": token, "https_proxy": Secret(f"http://127.0.0.1:{proxy.port}")}
        async with site.agent(edge, url="http://localhost:9", **settings) as agent:
            _left_behind(agent, monkeypatch)
            async with asyncio.timeout(5):
                with pytest.raises(UnavailableError, match="the network is gone"):
                    await agent.until_failed()


@pytest.mark.parametrize(
    "why",
    ["the edge is on this machine", "the proxy is still beside it", "so it is, and no link lives", "the proxy is elsewhere"],
)
async def test_an_agent_whose_network_may_come_back_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    async with site.edge() as edge, Origin(Echo) as origin:
        url = "http://192.0.2.1:8080" if why == "the proxy is elsewhere" else _on_localhost(origin)
        async with site.agent(edge, url=url) as agent:
            _left_behind(agent, monkeypatch, is_local=why == "the edge is on this machine")
            if why == "the edge is on this machine":
                assert origin.server is not None
                origin.server.close()
            elif why == "so it is, and no link lives":
                await edge.stop()
                await until(lambda: agent.links == 0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await agent.until_failed()


async def test_an_edge_on_loopback_is_on_this_machine_in_whatever_way_it_is_written(site: Site) -> None:
    async with site.edge() as edge:
        mapped = site.token(f"[::ffff:127.0.0.1]:{edge.agents_address.port}")
        async with site.agent(edge, url="http://localhost:9", token=mapped) as agent:
            assert all(link.is_local for link in agent._connections)


async def test_an_agent_that_is_out_of_files_for_a_moment_keeps_its_links(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.agent.server.until_isolated", functools.partial(until_isolated, every=0.001))
    async with site.edge() as edge, site.agent(edge, url="http://localhost:9") as agent:
        with without_files(), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await agent.until_failed()
        assert agent.links == 4


def _on_localhost(origin: Origin) -> str:
    return origin.url.replace("127.0.0.1", "localhost")  # as the published Compose file has it


def _left_behind(agent: Agent, monkeypatch: pytest.MonkeyPatch, *, is_local: bool | None = None) -> None:
    """The kernel takes the machine's interfaces away, and the edge was elsewhere or not, whatever it is in truth."""
    for link in agent._connections:
        link.is_local = link.is_local if is_local is None else is_local
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
