"""The API's page against the routes."""

from __future__ import annotations

import re

from tests.docs.pages import page

from penstock.control.api import conditions
from penstock.control.config import Limits

TEXT = page("api.md")


def test_the_headers_it_names_are_those_that_are_known() -> None:
    assert set(re.findall(r"mcp-tunnels-\d{4}-\d\d-\d\d", TEXT)) == {conditions.TUNNELS_BETA, conditions.LAUNCH_BETA}
    assert set(re.findall(r"`?(20\d\d-\d\d-\d\d)`", re.sub(r"mcp-tunnels-\S+", "", TEXT))) <= conditions.VERSIONS


def test_the_limits_it_tells_are_the_defaults() -> None:
    limits = Limits()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", TEXT, re.MULTILINE))
    assert rows["active tunnels of an organization"] == str(limits.tunnels_per_organization)
    assert rows["active certificates of a tunnel"] == str(limits.certificates_per_tunnel)
    rates = limits.rates
    assert rates.key is not None
    assert rates.address is not None
    assert rows["requests of one credential"] == f"{rates.key.per_minute:,} a minute, {rates.key.burst:,} at once"
    assert rows["requests of one address"] == f"{rates.address.per_minute:,} a minute, {rates.address.burst:,} at once"
    assert rows["request body"] == f"{limits.body >> 10} KiB, within {limits.body_seconds:.0f} s"
