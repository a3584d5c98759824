"""Where connections come from, held against a list of networks. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.config.types import Networks


class Sources:
    """The addresses inside some networks."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def __contains__(self, host: object) -> bool:
        """Whether `host`, an address in text, is inside; what is no address is not."""
        try:
            address = ipaddress.ip_address(str(host))
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # how a socket of both families shows IPv4
        return any(address in network for network in self._networks)
