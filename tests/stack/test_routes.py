from __future__ import annotations

from ipaddress import ip_network

import pytest

from penstock.errors import ConfigError
from penstock.stack.routes import Route, parse_networks


@pytest.mark.parametrize(
    ("text", "upstream", "path"),
    [
        ("my=http://127.0.0.1:9000", "http://127.0.0.1:9000", "/mcp"),
        ("my=http://127.0.0.1:9000/", "http://127.0.0.1:9000", "/mcp"),
        ("my=http://127.0.0.1:9000/a/b", "http://127.0.0.1:9000", "/a/b"),
        ("my=http://Server.Example", "http://server.example:80", "/mcp"),
        ("my=https://server.example/mcp/", "https://server.example:443", "/mcp/"),
        ("my=http://[::1]:9000", "http://[::1]:9000", "/mcp"),
    ],
)
def test_a_route_is_an_upstream_and_the_path_of_its_endpoint(text: str, upstream: str, path: str) -> None:
    route = Route.parse(text)
    assert (route.name, route.upstream, route.path) == ("my", upstream, path)
    assert str(route.address) == upstream.partition("://")[2]


def test_a_name_is_one_label_of_at_most_63_characters() -> None:
    assert Route.parse(f"{'a' * 63}=http://h:1").name == "a" * 63
    with pytest.raises(ConfigError):
        Route.parse(f"{'a' * 64}=http://h:1")


def test_networks_and_single_addresses_are_taken() -> None:
    assert parse_networks(["10.0.0.0/8", "192.0.2.1"]) == (ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32"))
