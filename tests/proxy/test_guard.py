from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.proxy.guard import Guard, Resolver

if TYPE_CHECKING:
    from collections.abc import Sequence


def guard(*networks: str, is_off: bool = False) -> Guard:
    return Guard([ip_network(network) for network in networks] if networks else None, is_off=is_off)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "::ffff:10.0.0.1"]
)
def test_private_addresses_are_dialled_by_default(address: str) -> None:
    assert guard().is_allowed(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "100.64.0.1",  # CGNAT
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "0.0.0.0",
        "0.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fd00::1",
        "fe80::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:db8::1",
    ],
)
def test_everything_else_is_refused_by_default(address: str) -> None:
    assert not guard().is_allowed(ip_address(address))


def test_the_list_replaces_the_default() -> None:
    only = guard("10.1.0.0/16", "203.0.113.7")
    assert only.is_allowed(ip_address("10.1.2.3"))
    assert only.is_allowed(ip_address("203.0.113.7"))
    assert not only.is_allowed(ip_address("10.2.0.1"))
    assert not only.is_allowed(ip_address("192.168.0.1"))


def test_ipv6_is_dialled_only_where_the_list_has_it() -> None:
    assert not guard("10.0.0.0/8").is_allowed(ip_address("fd12::1"))
    assert guard("fd12::/16").is_allowed(ip_address("fd12::1"))
    assert not guard("fd12::/16").is_allowed(ip_address("fd12::1%eth0"))
    assert not guard(is_off=True).is_allowed(ip_address("2001:db8::1"))


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "169.254.0.1", "168.63.129.16", "100.100.100.200", "192.0.0.192", "::ffff:169.254.169.254"]
)
def test_metadata_is_refused_unless_it_is_named(address: str) -> None:
    metadata = ip_address(address)
    assert not guard(is_off=True).is_allowed(metadata)
    assert not guard("0.0.0.0/0").is_allowed(metadata)
    assert not guard("100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/16", "168.63.0.0/16").is_allowed(metadata)
    assert guard("169.254.169.0/24", "169.254.0.1", "168.63.129.16", "100.100.100.0/24", "192.0.0.192").is_allowed(metadata)


@pytest.mark.parametrize("address", ["fd00:ec2::254", "fe80::1", "fd20:ce::254"])
def test_metadata_over_ipv6_is_refused_unless_it_is_named(address: str) -> None:
    assert not guard("::/0", is_off=True).is_allowed(ip_address(address))
    assert not guard("fd00::/8", "fe80::/10").is_allowed(ip_address(address))
    assert guard("fd00:ec2::/64", "fe80::/64", "fd20:ce::254").is_allowed(ip_address(address))


@pytest.mark.parametrize(
    "address", ["64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "::a9fe:a9fe", "64:ff9b::7f00:1"]
)
def test_ipv4_inside_ipv6_is_seen(address: str) -> None:
    assert not guard("::/0", "10.0.0.0/8").is_allowed(ip_address(address))


def test_without_validation_anything_but_metadata_goes() -> None:
    anything = guard(is_off=True)
    assert anything.is_allowed(ip_address("127.0.0.1"))
    assert anything.is_allowed(ip_address("8.8.8.8"))
    assert not anything.is_allowed(ip_address("0.0.0.0"))


def test_one_answer_outside_refuses_all() -> None:
    answers = [ip_address("10.0.0.1"), ip_address("8.8.8.8"), ip_address("10.0.0.2")]
    assert guard().refused(answers) == ip_address("8.8.8.8")
    assert guard().refused(answers[:1]) is None


class Names:
    """A resolver that gives its answers one after the other."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, bool]] = []

    async def __call__(self, host: str, *, ipv6: bool) -> Sequence[str]:
        self.asked.append((host, ipv6))
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.mark.anyio
class TestResolver:
    async def test_the_checked_addresses_are_the_answer(self) -> None:
        names = Names(["10.0.0.1", "10.0.0.2"])
        assert await Resolver(guard(), lookup=names).resolve("a") == [ip_address("10.0.0.1"), ip_address("10.0.0.2")]
        assert names.asked == [("a", False)]

    async def test_it_asks_once_and_every_answer_is_checked_anew(self) -> None:
        names = Names(["10.0.0.1"], ["127.0.0.1"])
        resolver = Resolver(guard(), lookup=names)
        assert await resolver.resolve("a") == [ip_address("10.0.0.1")]
        with pytest.raises(TunnelError) as caught:
            await resolver.resolve("a")
        assert caught.value.code is TunnelErrorCode.ADDRESS_REFUSED
        assert len(names.asked) == 2

    async def test_the_refusal_tells_the_log_and_not_the_caller(self) -> None:
        with pytest.raises(TunnelError) as caught:
            await Resolver(guard(), lookup=Names(["10.0.0.1", "93.184.216.34"])).resolve("a")
        assert caught.value.detail == "IP validation failed: 93.184.216.34 is not a private address"
        assert "93.184" not in caught.value.public

    async def test_literals_are_not_looked_up_but_are_checked(self) -> None:
        names = Names()
        resolver = Resolver(guard(), lookup=names)
        assert await resolver.resolve("10.0.0.1") == [ip_address("10.0.0.1")]
        assert await resolver.resolve("::ffff:10.0.0.1") == [ip_address("10.0.0.1")]
        with pytest.raises(TunnelError):
            await resolver.resolve("127.0.0.1")
        assert not names.asked

    @pytest.mark.parametrize("answer", [OSError("no such host"), [], ["10.0.0.1"] * 65])
    async def test_a_name_without_a_sensible_answer_is_unreachable(self, answer: Sequence[str] | OSError) -> None:
        with pytest.raises(TunnelError) as caught:
            await Resolver(guard(), lookup=Names(answer)).resolve("a")
        assert caught.value.code is TunnelErrorCode.UPSTREAM_UNREACHABLE

    async def test_a_routes_own_list_stands_in_for_the_proxys(self) -> None:
        names = Names(["192.0.2.7"], ["10.0.0.1"], ["fd00::1"])
        resolver = Resolver(guard(), lookup=names)
        own = [ip_network("192.0.2.7")]
        assert await resolver.resolve("a", own) == [ip_address("192.0.2.7")]
        with pytest.raises(TunnelError):
            await resolver.resolve("a", own)  # what the proxy allows is not this route's
        assert await resolver.resolve("a", [ip_network("fd00::/64")]) == [ip_address("fd00::1")]
        assert [ipv6 for _, ipv6 in names.asked] == [False, False, True]

    async def test_a_routes_own_list_opens_no_metadata_by_accident(self) -> None:
        with pytest.raises(TunnelError):
            await Resolver(guard(), lookup=Names()).resolve("169.254.169.254", [ip_network("0.0.0.0/0")])

    async def test_localhost_is_loopback_and_refused(self) -> None:
        with pytest.raises(TunnelError) as caught:
            await Resolver(guard()).resolve("localhost")
        assert caught.value.code is TunnelErrorCode.ADDRESS_REFUSED

    async def test_look_ups_are_bounded(self) -> None:
        running, most, release = 0, 0, asyncio.Event()

        async def slow(host: str, *, ipv6: bool) -> Sequence[str]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await release.wait()
            running -= 1
            return ["10.0.0.1"]

        resolver = Resolver(guard(), lookup=slow, most=2)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(resolver.resolve("a"))
            while running < 2:
                await asyncio.sleep(0)
            release.set()
        assert most == 2
