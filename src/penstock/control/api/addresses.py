"""Where a request came from: the connection's other end, or what trusted proxies in front say that *their* other end was."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.config.types import Networks

_IPV6_SITE: Final = 64  # bits: one household or machine has them all
_HOPS: Final = 16  # entries looked at: more proxies in a row than anybody has


def client_address(peer: str | None, forwarded: Iterable[str], trusted: Networks) -> str | None:
    """The nearest address that is no trusted proxy's.

    `forwarded` are the X-Forwarded-For lines in order. Each proxy adds its peer at the end, so they are read from there, and
    only as far as trusted proxies wrote them: what stands before is the sender's own word.
    """
    address = _parse(peer or "")
    if address is None or not _is_in(address, trusted):
        return peer
    entries = ",".join(forwarded).split(",")
    for entry in entries[: -_HOPS - 1 : -1]:
        found = _parse(entry)
        if found is None:
            break
        address = found
        if not _is_in(address, trusted):
            break
    return str(address)


def holder(peer: str, trusted: Networks) -> str | None:
    """Whose connection from this address is; None for a trusted proxy's, which may be anybody's."""
    address = _parse(peer)
    return None if address is not None and _is_in(address, trusted) else site(peer)


def site(address: str | None) -> str:
    """Whose address this is: an IPv6 one stands for its /64, which changes its lower half as it likes."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{int(parsed) >> (128 - _IPV6_SITE):x}"
    return str(parsed)


def _is_in(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address, with or without a port: proxies write both."""
    text = text.strip()[:64]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
