from __future__ import annotations

from typing import Any

import pytest

from penstock.config.load import load
from penstock.config.types import HostPort
from penstock.edge.config import EdgeConfig
from penstock.errors import ConfigError

NEEDED = {"control_url": "http://127.0.0.1:8700", "state_dir": "/var/lib/penstock"}


def config(**settings: Any) -> EdgeConfig:
    return load(EdgeConfig, role="edge", flags={**NEEDED, **settings})


def test_two_settings_are_enough_and_everything_listens_on_loopback() -> None:
    made = config()
    assert [str(address) for address in (made.callers_addr, made.agents_addr, made.admin_addr)] == [
        "127.0.0.1:8443",
        "127.0.0.1:7844",
        "127.0.0.1:8444",
    ]


def test_an_edge_on_every_interface_has_to_say_where_it_is_reached() -> None:
    with pytest.raises(ConfigError, match="advertise_callers"):
        config(callers_addr=":8443")
    told = config(callers_addr=":8443", advertise_callers="edge.example.com:443")
    assert told.advertise_callers == HostPort("edge.example.com", 443)


@pytest.mark.parametrize("name", ["", "Edge", "edge.one", "-edge", "e" * 64])
def test_a_name_that_is_no_dns_label_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        config(name=name)


def test_limits_are_settings_with_units() -> None:
    made = config(limits={"head_bytes": "32KiB", "ping_interval": "5s"})
    assert (made.limits.head_bytes, made.limits.ping_interval) == (32768, 5.0)
