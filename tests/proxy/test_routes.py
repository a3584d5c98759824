from __future__ import annotations

import pytest

from penstock.proxy.route_settings import RouteConfig
from penstock.proxy.routes import RouteTable, normalize

DOMAIN = "ab12cd34.tunnel.example.com"
TABLE = RouteTable(
    {
        "echo": RouteConfig(url="http://a:1"),
        "wiki": RouteConfig(url="https://b:443", host_header="upstream"),
        f"exact.{DOMAIN}": RouteConfig(url="http://c:80", host_header="other.example.com"),
        "exact": RouteConfig(url="http://d:1"),
        "mcp.example.org": RouteConfig(url="http://e:8080", host_header="upstream"),
    },
    DOMAIN,
)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (f"echo.{DOMAIN}", "echo"),
        ("echo", "echo"),
        (f"exact.{DOMAIN}", f"exact.{DOMAIN}"),
        ("mcp.example.org", "mcp.example.org"),
        (f"mcp.example.org.{DOMAIN}", "mcp.example.org"),
        (f"a.echo.{DOMAIN}", None),
        (DOMAIN, None),
        (f"echo{DOMAIN}", None),
        (f"echo.x{DOMAIN}", None),
        (f"echo.{DOMAIN}.evil.com", None),
        ("", None),
    ],
)
def test_a_host_is_matched_exactly_and_then_without_the_domain(host: str, name: str | None) -> None:
    route = TABLE.find(host)
    assert (route.name if route else None) == name


def test_without_a_domain_only_exact_hosts_match() -> None:
    table = RouteTable({"echo.example.com": RouteConfig(url="http://a:1")}, "")
    assert table.find("echo.example.com") is not None
    assert table.find("a.echo.example.com") is None


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Echo.Example.COM", "echo.example.com"),
        ("echo.example.com:443", "echo.example.com"),
        ("echo.example.com.", "echo.example.com"),
        ("echo.example.com.:443", "echo.example.com"),
        ("127.0.0.1", None),
        ("[::1]", None),
        ("0x7f.1", None),
        ("a..b", None),
        ("a:b", None),
        ("", None),
    ],
)
def test_one_normalization(text: str, host: str | None) -> None:
    assert normalize(text) == host


@pytest.mark.parametrize(
    ("name", "header"),
    [("echo", None), ("wiki", b"b"), (f"exact.{DOMAIN}", b"other.example.com"), ("mcp.example.org", b"e:8080")],
)
def test_the_host_sent_upstream_is_a_choice(name: str, header: bytes | None) -> None:
    route = TABLE.find(name)
    assert route is not None
    assert route.host_header == header


@pytest.mark.parametrize(
    ("upgrade", "sni", "host", "is_addressed"),
    [
        (f"echo.{DOMAIN}", f"echo.{DOMAIN}", f"echo.{DOMAIN}", True),
        (f"echo.{DOMAIN}", None, f"echo.{DOMAIN}", True),
        (f"echo.{DOMAIN}", "echo", "echo", True),  # two names of one route
        (f"echo.{DOMAIN}", f"echo.{DOMAIN}", f"wiki.{DOMAIN}", False),
        (f"wiki.{DOMAIN}", f"echo.{DOMAIN}", f"echo.{DOMAIN}", False),  # what the edge permitted is another route
        (f"echo.{DOMAIN}", f"wiki.{DOMAIN}", f"echo.{DOMAIN}", False),  # what the certificate was checked for is another
        (f"none.{DOMAIN}", f"none.{DOMAIN}", f"none.{DOMAIN}", True),  # misdirected it is not, only without a route
        (f"none.{DOMAIN}", f"none.{DOMAIN}", f"echo.{DOMAIN}", False),
        (DOMAIN, f"echo.{DOMAIN}", f"echo.{DOMAIN}", True),  # a stock caller's outer Host
        (DOMAIN, f"wiki.{DOMAIN}", f"echo.{DOMAIN}", False),
        (DOMAIN, None, f"echo.{DOMAIN}", False),
        ("localhost", f"echo.{DOMAIN}", f"echo.{DOMAIN}", False),
        ("com", f"echo.{DOMAIN}", f"echo.{DOMAIN}", True),
    ],
)
def test_three_names_mean_one_route(upgrade: str, sni: str | None, host: str, is_addressed: bool) -> None:
    assert TABLE.is_addressed(host, upgrade=upgrade, server_name=sni) is is_addressed
