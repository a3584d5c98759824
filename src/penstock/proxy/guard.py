"""The address guard: what may be dialled. `Guard` is pure; `Resolver` asks the system, bounded in number and time.

A name is resolved once a connection, every answer is checked, one answer outside refuses them all, and what is dialled is
an address that was checked: a name that changes its answer between check and dial (rebinding) changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final, Protocol

from penstock.errors import TunnelError, TunnelErrorCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.config.types import IPNetwork

IPAddress = IPv4Address | IPv6Address

RFC_1918: Final = (IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"))

# Where clouds keep credentials for whoever asks, and the link itself. Lists that allow them by accident (0.0.0.0/0,
# 100.64.0.0/10, fd00::/8) do not count; one that names them does.
_METADATA: Final[tuple[IPNetwork, ...]] = (
    IPv4Network("169.254.0.0/16"),  # link-local; 169.254.169.254 on AWS, Azure, GCP, OpenStack, 169.254.170.2 on ECS
    IPv4Network("168.63.129.16/32"),  # Azure's wire server
    IPv4Network("100.100.100.200/32"),  # Alibaba
    IPv4Network("192.0.0.192/32"),  # Oracle
    IPv6Network("fe80::/10"),
    IPv6Network("fd00:ec2::/32"),  # AWS
    IPv6Network("fd20:ce::254/128"),  # GCP
    IPv6Network("fd00:c1::a9fe:a9fe/128"),  # Oracle
)
_NAMED_BY_PREFIX: Final = {4: 24, 6: 64}  # one subnet, in either family: nobody writes that by accident
LISTS: Final = "list the network in the route's allowed_ips, or in upstream.allowed_ips"
_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))  # RFC 6052's and RFC 8215's prefix
_ANSWERS_MOST: Final = 64  # a name with more addresses than this is no upstream
_IPV4_BROADCAST: Final = IPv4Address("255.255.255.255")


class Guard:
    """What may be dialled: `allowed` (RFC 1918 when None), or anything when `is_off`, except metadata in either case."""

    __slots__ = ("_allowed", "_is_off", "takes_ipv6")

    def __init__(self, allowed: Sequence[IPNetwork] | None = None, *, is_off: bool = False) -> None:
        self._allowed = RFC_1918 if allowed is None else tuple(allowed)
        self._is_off = is_off
        self.takes_ipv6 = any(network.version == 6 for network in self._allowed)

    def refused(self, answers: Sequence[IPAddress]) -> IPAddress | None:
        """The first of `answers` that may not be dialled; it refuses all of them."""
        return next((address for address in answers if not self.is_allowed(address)), None)

    def is_allowed(self, address: IPAddress) -> bool:
        """Whether this one address may be dialled."""
        if isinstance(address, IPv6Address):
            mapped = address.ipv4_mapped
            if mapped is not None:
                return self.is_allowed(mapped)  # the kernel would dial the IPv4 address
            if not self.takes_ipv6 or address.scope_id is not None:
                return False
            # A gateway on the way would turn these into IPv4 packets: what is inside must be allowed too.
            inside = _embedded(address)
            if inside is not None and not self.is_allowed(inside):
                return False
        if address.is_multicast or address.is_unspecified or address == _IPV4_BROADCAST:
            return False  # 0.0.0.0 is a way to say loopback; the rest is nobody's address
        if any(address in network for network in _METADATA if network.version == address.version):
            return any(network.prefixlen >= _NAMED_BY_PREFIX[address.version] for network in self._matching(address))
        return self._is_off or bool(self._matching(address))

    def _matching(self, address: IPAddress) -> list[IPNetwork]:
        return [network for network in self._allowed if network.version == address.version and address in network]


def refusal_hint(address: IPAddress) -> str:
    """What to do about an address that is not dialled."""
    if any(address in network for network in _METADATA if network.version == address.version):
        return "clouds keep credentials at such addresses: they are dialled only where a list names their own small subnet"
    return f"{LISTS}, if it is meant to be reached"


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that 6to4, Teredo, NAT64 or the IPv4-compatible form carries."""
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64) or (int(address) >> 32 == 0 and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class LookUp(Protocol):
    """How a name becomes addresses; tests bring one that changes its mind."""

    async def __call__(self, host: str, *, ipv6: bool) -> Sequence[str]:
        """The addresses of `host`, A only unless `ipv6`; OSError when there are none."""
        ...


async def system_lookup(host: str, *, ipv6: bool) -> Sequence[str]:
    """What the system's resolver says: hosts file, search domains and DNS, as every program on this machine sees it."""
    family = socket.AF_UNSPEC if ipv6 else socket.AF_INET
    answers = await asyncio.get_running_loop().getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class Resolver:
    """Checked addresses of a host."""

    __slots__ = ("_guard", "_lookup", "_turns")

    def __init__(self, guard: Guard, *, lookup: LookUp = system_lookup, most: int = 16) -> None:
        self._guard = guard
        self._lookup = lookup
        # The system's resolver blocks a thread; a slow name server must not use up all of them.
        self._turns = asyncio.Semaphore(most)

    async def resolve(self, host: str, allowed: Sequence[IPNetwork] | None = None) -> list[IPAddress]:
        """Addresses of `host` that may be dialled, in the resolver's order; TunnelError when one may not.

        `allowed` stands in for the proxy's own list. The caller sets the time.
        """
        guard = self._guard if allowed is None else Guard(allowed)
        answers = _literal(host)
        if answers is None:
            async with self._turns:
                answers = await self._ask(host, ipv6=guard.takes_ipv6)
        refused = guard.refused(answers)
        if refused is not None:
            # The published text, for the log alone: a caller learns nothing about the network behind the proxy.
            raise TunnelError(
                TunnelErrorCode.ADDRESS_REFUSED,
                "the upstream of this route has an address that the proxy may not dial",
                detail=f"IP validation failed: {refused} is not a private address",
                hint=refusal_hint(refused),
            )
        return [_dialled(address) for address in answers]

    async def _ask(self, host: str, *, ipv6: bool) -> list[IPAddress]:
        try:
            texts = await self._lookup(host, ipv6=ipv6)
        except (OSError, UnicodeError, RuntimeError) as exc:  # the idna codec on odd labels; no thread to ask in
            raise TunnelError(
                TunnelErrorCode.UPSTREAM_UNREACHABLE,
                "the upstream of this route has no address",
                detail=f"lookup {host}: {exc}",
                hint="check the route's host name and this machine's DNS",
            ) from exc
        if not 0 < len(texts) <= _ANSWERS_MOST:
            raise TunnelError(
                TunnelErrorCode.UPSTREAM_UNREACHABLE,
                "the upstream of this route has no address",
                detail=f"lookup {host}: {len(texts)} addresses",
            )
        return [ip_address(text) for text in texts]


def _literal(host: str) -> list[IPAddress] | None:
    try:
        return [ip_address(host)]
    except ValueError:
        return None


def _dialled(address: IPAddress) -> IPAddress:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
