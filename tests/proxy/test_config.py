from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.config.load import load
from penstock.config.types import HostPort
from penstock.errors import ConfigError
from penstock.proxy.config import ProxyConfig
from penstock.proxy.route_settings import RouteConfig, parse_upstream

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = """
listen_addr: ":8080"
log_level: info
shutdown_timeout: 30s
tunnel_domain: ab12cd34.tunnel.example.com
tls:
  cert_file: /data/tls.crt
  key_file: /data/tls.key
routes:
  echo: http://hello-mcp:9000
  wiki: https://wiki.corp.internal:443
upstream:
  allowed_ips: [10.0.0.0/8, 192.168.1.7]
  tls:
    ca_file: /data/ca.pem
    include_system_cas: true
"""


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "listen_addr": ":8080",
        "tunnel_domain": "ab12cd34.tunnel.example.com",
        "tls": {"cert_file": "/data/tls.crt", "key_file": "/data/tls.key"},
        "routes": {"echo": "http://hello-mcp:9000"},
        **changes,
    }


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(ProxyConfig, role="proxy", flags=settings(**changes))
    return caught.value.public


def test_a_published_file_is_taken_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "mcp-gateway.yaml"
    file.write_text(PUBLISHED)
    config = load(ProxyConfig, role="proxy", file=file)
    assert config.listen_addr == HostPort("", 8080)
    assert config.shutdown_timeout == 30.0
    assert config.routes["echo"] == RouteConfig(url="http://hello-mcp:9000")
    assert config.upstream.allowed_ips is not None
    assert [str(network) for network in config.upstream.allowed_ips] == ["10.0.0.0/8", "192.168.1.7/32"]
    assert config.callers.mode == "off"


def test_the_published_defaults_hold() -> None:
    config = load(ProxyConfig, role="proxy", flags=settings())
    assert (config.log_level, config.shutdown_timeout) == ("info", 30.0)
    assert config.upstream.allowed_ips is None
    assert not config.upstream.disable_ip_validation
    assert not config.upstream.tls.include_system_cas


def test_a_route_may_be_a_mapping() -> None:
    route = {"url": "http://127.0.0.1:9000", "host_header": "upstream"}
    config = load(ProxyConfig, role="proxy", flags=settings(routes={"Echo": route}))
    assert config.routes["echo"].host_header == "upstream"


def test_the_options_of_a_route_are_its_own() -> None:
    routes = {"echo": {"url": "http://a:1", "allowed_ips": ["192.0.2.7"], "sse_keepalive": "15s"}, "wiki": "http://b:1"}
    config = load(ProxyConfig, role="proxy", flags=settings(routes=routes))
    assert [str(network) for network in config.routes["echo"].allowed_ips or ()] == ["192.0.2.7/32"]
    assert (config.routes["echo"].sse_keepalive, config.routes["wiki"].sse_keepalive) == (15.0, 0.0)
    assert config.routes["wiki"].allowed_ips is None


def test_a_section_with_nothing_in_it_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(PUBLISHED.partition("upstream:")[0] + "upstream:\n")
    assert load(ProxyConfig, role="proxy", file=file).upstream.allowed_ips is None


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "http://a:9000/",
        "http://a:9000/mcp",
        "http://a:9000?x",
        "a:9000",
        "ftp://a:9000",
        "http://:9000",
        "http://u@a:9000",
        "http://u:p@a:9000",
        "http://a:0",
        "http://a:65536",
        "http://a b:9000",
        "http://a:9000\n",
        "http://2130706433:9000",
        "http://0x7f.1:9000",
        "http://0177.0.0.1:9000",
        "http://127.1:9000",
        "http://1.2.3.256:9000",
        "http://[::1:9000",
        "",
    ],
)
def test_an_upstream_is_exactly_scheme_host_port(url: str) -> None:
    assert refusal(routes={"echo": url}).endswith("routes.echo: invalid upstream (must be scheme://host:port)")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://hello_mcp:9000", ("http", "hello_mcp", 9000)),
        ("https://Wiki.Corp.Internal:443", ("https", "wiki.corp.internal", 443)),
        ("http://10.1.2.3:80", ("http", "10.1.2.3", 80)),
        ("http://[fd00::1]:80", ("http", "fd00::1", 80)),
    ],
)
def test_upstreams_are_parsed(url: str, parts: tuple[str, str, int]) -> None:
    assert parse_upstream(url) == parts


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"routes": [{"echo": "http://a:1"}]}, "routes: cannot unmarshal !!seq into map[string]string"),
        ({"routes": {}}, "routes: must map at least one"),
        ({"routes": {"ec ho": "http://a:1"}}, "is not a subdomain or host name"),
        ({"routes": {"echo": {"url": "http://a:1", "path": "/x"}}}, "routes.echo.path: unknown setting"),
        ({"routes": {"echo": {"url": "http://a:1", "host_header": "a\r\nb"}}}, "host_header must be"),
        ({"routes": {"echo": {"url": "http://a:1", "host_header": "a:"}}}, "host_header must be"),
        ({"routes": {"echo": {"host_header": "a"}}}, "routes.echo.url: required"),
        ({"routes": {"echo": {"url": "http://a:1", "allowed_ips": []}}}, "routes.echo: allowed_ips is empty"),
        ({"routes": {"echo": {"url": "http://a:1", "allowed_ips": ["10.0.0.1/8"]}}}, "has host bits set"),
        ({"routes": {"echo": {"url": "http://a:1", "sse_keepalive": "soon"}}}, "routes.echo.sse_keepalive: 'soon' is not a"),
        ({"routes": None}, "routes: required"),
        ({"tunnel_domain": ""}, "tunnel_domain is required: route echo is a bare subdomain"),
        ({"upstream": {"allowed_ips": ["10.0.0.0/8"], "disable_ip_validation": True}}, "allowed_ips and disable_ip_validation"),
        ({"upstream": {"allowed_ips": []}}, "allowed_ips is empty"),
        ({"callers": {"mode": "require"}}, "ca_file is required with mode require"),
        ({"callers": {"mode": "off", "allow": ["wrkspc_1"]}}, "no effect with mode off"),
        ({"callers": {"mode": "require", "ca_file": "/a", "allow": []}}, "allow is empty"),
        ({"listen": ":1"}, "listen: unknown setting"),
        ({"limits": {"head_bytes": 10}}, "limits.head_bytes"),
        ({"limits": {"idle_timeout": 0}}, "limits.idle_timeout"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], text: str) -> None:
    assert text in refusal(**changes)


def test_full_host_names_need_no_domain() -> None:
    config = load(ProxyConfig, role="proxy", flags=settings(tunnel_domain="", routes={"echo.example.com": "http://a:1"}))
    assert list(config.routes) == ["echo.example.com"]


def test_a_domain_out_of_a_file_may_end_its_line() -> None:
    config = load(ProxyConfig, role="proxy", flags=settings(tunnel_domain="ab12cd34.tunnel.example.com\n"))
    assert config.tunnel_domain == "ab12cd34.tunnel.example.com"
