"""Where a request came from: the connection's other end, or what trusted proxies in front say that *their* other end was."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.config.types import Networks

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
