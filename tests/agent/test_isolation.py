from __future__ import annotations

import asyncio
import fcntl
import itertools
import socket
import struct
from typing import Any

import pytest

from penstock.agent.isolation import interfaces, until_isolated
from penstock.errors import UnavailableError

pytestmark = pytest.mark.anyio

ETHERNET, NOTHING = frozenset({"eth0"}), frozenset[str]()


async def _watch(*seen: frozenset[str], links: int = 0) -> None:
    """`until_isolated` over what it sees, the last of it for ever; TimeoutError when it sees no reason to end."""
    looks = itertools.chain(seen, itertools.repeat(seen[-1]))
    async with asyncio.timeout(0.2):
        await until_isolated(lambda: links > 0, look=lambda: next(looks), every=0.001)


async def test_an_agent_whose_interfaces_are_gone_for_good_ends_and_says_why() -> None:
    with pytest.raises(UnavailableError, match="the network is gone") as ended:
        await _watch(ETHERNET, ETHERNET, NOTHING)
    assert "start the agent again" in str(ended.value.hint)


@pytest.mark.parametrize(
    ("seen", "links"),
    [
        ((NOTHING,), 0),  # a machine with loopback alone
        ((ETHERNET, NOTHING, NOTHING, ETHERNET), 0),  # configured anew
        ((ETHERNET, NOTHING), 1),  # the edge is on this machine
        ((ETHERNET,), 0),
    ],
)
async def test_otherwise_it_goes_on(seen: tuple[frozenset[str], ...], links: int) -> None:
    with pytest.raises(TimeoutError):
        await _watch(*seen, links=links)


def test_only_interfaces_that_are_up_and_not_loopback_are_a_way_out() -> None:
    up = {link["ifname"] for link in _links() if "UP" in link["flags"] and "LOOPBACK" not in link["flags"]}
    assert interfaces() == up


def _links() -> list[dict[str, Any]]:
    """What the kernel says, by a way of its own: SIOCGIFFLAGS."""
    found: list[dict[str, Any]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            answer = fcntl.ioctl(asked, 0x8913, struct.pack("16sH22x", name.encode(), 0))
            flags = struct.unpack_from("H", answer, 16)[0]
            found.append({"ifname": name, "flags": {text for bit, text in ((1, "UP"), (8, "LOOPBACK")) if flags & bit}})
    return found
