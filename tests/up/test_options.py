from __future__ import annotations

from ipaddress import ip_network

import pytest

from penstock.config.types import HostPort
from penstock.stack.routes import parse_networks, parse_routes
from penstock.up import roles
from penstock.up.options import Options
from penstock.up.stack import Stack


def test_without_a_route_the_sample_is_exposed() -> None:
    assert Options().has_sample
    assert not Options(routes=parse_routes(["my=http://h:1"])).has_sample


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return Stack(tmp_path_factory.mktemp("stack"), "tnl_1", "abcdefgh.tunnel.penstock.internal", "wrkspc_1")


def test_the_proxy_serves_the_callers_of_its_own_workspace_alone(stack: Stack) -> None:
    callers = roles.proxy(Options(), stack, {"my": "http://127.0.0.1:9000"}).callers
    assert (callers.mode, callers.allow) == ("require", ("wrkspc_1",))


def test_the_proxy_may_dial_private_networks_loopback_and_what_was_asked_for_and_no_more(stack: Stack) -> None:
    config = roles.proxy(Options(allowed=parse_networks(["192.0.2.0/24"])), stack, {"my": "http://192.0.2.9:9000"})
    assert config.upstream.allowed_ips == tuple(
        map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "192.0.2.0/24"))
    )
    assert not config.upstream.disable_ip_validation


@pytest.mark.parametrize("upstream", ["http://[::1]:9000", "http://localhost:9000"])
def test_ipv6s_loopback_is_added_where_a_server_may_be_there(stack: Stack, upstream: str) -> None:
    assert ip_network("::1/128") in (roles.proxy(Options(), stack, {"my": upstream}).upstream.allowed_ips or ())


@pytest.mark.parametrize(
    ("upstream", "host_header"),
    [
        ("http://127.0.0.1:9000", "upstream"),
        ("http://127.1.2.3:9000", "upstream"),
        ("http://localhost:9000", "upstream"),
        ("http://10.0.0.1:9000", "preserve"),
        ("https://localhost.example:443", "preserve"),
        ("http://server.example:80", "preserve"),
    ],
)
def test_only_a_loopback_upstream_gets_the_host_it_knows(stack: Stack, upstream: str, host_header: str) -> None:
    config = roles.proxy(Options(), stack, {"my": upstream})
    assert config.routes["my"].host_header == host_header


def test_callers_have_to_show_a_certificate_inside_the_tunnel(stack: Stack) -> None:
    assert roles.proxy(Options(), stack, {"my": "http://127.0.0.1:1"}).callers.mode == "require"


def test_everything_listens_on_loopback_and_lies_in_the_one_folder(stack: Stack) -> None:
    options = Options()
    control = roles.control(options)
    edge = roles.edge(options, "http://127.0.0.1:8700", options.folder / "enrolment-token")
    agent = roles.agent(options, stack)
    addresses = [control.listen_addr, control.admin_addr, edge.callers_addr, edge.agents_addr, edge.admin_addr, agent.metrics]
    assert {address.host for address in addresses if isinstance(address, HostPort)} == {"127.0.0.1"}
    assert control.data_dir.is_relative_to(options.folder)
    assert edge.state_dir.is_relative_to(options.folder)
