from __future__ import annotations

import ipaddress

import pytest

from penstock.edge.sources import Sources

NETWORKS = ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7")
SOURCES = Sources(tuple(ipaddress.ip_network(network) for network in NETWORKS))


@pytest.mark.parametrize("host", ["10.255.0.1", "::ffff:10.0.0.1", "2001:db8::1", "192.0.2.7"])
def test_an_address_inside_is_in_however_it_is_written(host: str) -> None:
    assert host in SOURCES


@pytest.mark.parametrize("host", ["11.0.0.1", "::ffff:11.0.0.1", "2001:db9::1", "192.0.2.8", "", "fe80::1%eth0", "name", None])
def test_any_other_is_not_and_what_is_no_address_neither(host: str) -> None:
    assert host not in SOURCES
