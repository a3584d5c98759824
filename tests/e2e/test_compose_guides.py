"""docs/guides/compose.md and network.md, typed word by word on a real engine: from two empty folders to none.

What is the reader's own is all that is changed: addresses, the key, a second host that is a folder. The names of the page
lead to the engine's host, where the platform's ports are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from tests.support import ca, compose
from tests.support.pages import Page
from tests.support.sides import python_image
from tests.support.terminal import Terminal

from penstock.tls.certs import certificate_to_pem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

COMPOSE = Page("guides/compose.md")
NETWORK = Page("guides/network.md")
_HOSTS = "[penstock.example.com:host-gateway, edge.example.com:host-gateway]"
_OVERRIDE = "services: {setup: {extra_hosts: HOSTS}, mcp-gateway: {extra_hosts: HOSTS}}\n".replace("HOSTS", _HOSTS)
_SAMPLE = {"compose.sample.yaml'": "compose.sample.yaml:compose.override.yaml'"}  # where a file is named, no override is read


@dataclass
class Hosts:
    """The page's machines, all of them this one's engine."""

    platform: Terminal
    private: Terminal
    second: Path
    first: dict[str, str] = field(default_factory=dict)
    outside: str = ""
    """The addresses behind the platform's published ports."""

    @property
    def data(self) -> Path:
        return self.private.folder / "deploy/compose/stack/data"

    def call(self) -> str:
        """From a container of its own, for the page's names are known nowhere else."""
        domain = (self.data / "tunnel-domain").read_text().strip()
        names = [part for host in ("penstock", "edge") for part in ("--add-host", f"{host}.example.com:host-gateway")]
        given = {"API_URL": "https://penstock.example.com", "API_KEY": self.first["api_key"]}
        variables = [part for name, value in given.items() for part in ("--env", f"PENSTOCK_{name}={value}")]
        trusted = ["--volume", f"{self.platform.folder}/ca.crt:/ca.crt:ro", "--env", "SSL_CERT_FILE=/ca.crt"]
        return compose.docker(
            "run", "--rm", *names, *variables, *trusted, "penstock:0.1.0",
            "call", f"https://echo.{domain}/mcp", "hello", "name=you", check=False,
        )  # fmt: skip

    def works(self) -> bool:
        return self.call().startswith("Hello, you!")


def shims(folder: Path, second: Path) -> str:
    """`sudo` where the tests are root already, and `ssh` to the second host, which is a folder."""
    folder.mkdir()
    second.mkdir()
    for name, text in {"sudo": 'exec "$@"', "ssh": f'shift\ncd {second}\nexec sh -c "$*"'}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    compose.image(python_image(), version("penstock"))
    compose.docker("tag", "penstock:0.1.0", "penstock:0.1.1")
    folder = tmp_path_factory.mktemp("guide")
    (folder / "curl").mkdir()
    (folder / "curl/.curlrc").write_text(f"resolve = penstock.example.com:443:127.0.0.1\ncacert = {folder}/platform/ca.crt\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "TUNNEL_", "COMPOSE_"))}
    kept["POSTGRES_IMAGE"] = compose.postgres_image(python_image())
    environment = {**kept, "PATH": shims(folder / "shims", folder / "second"), "CURL_HOME": str(folder / "curl")}
    for host, kind in (("platform", "platform"), ("private", "stack")):
        shutil.copytree(compose.ROOT / "deploy/compose" / kind, folder / host / "deploy/compose" / kind)
    made = Hosts(
        Terminal(folder / "platform", environment),
        Terminal(folder / "private", environment, changes=_SAMPLE),
        folder / "second",
    )
    pair = ca.server(authority := ca.ca(), "control", "penstock.example.com")
    tls = folder / "platform/deploy/compose/platform/tls"
    tls.mkdir()
    for file in (folder / "platform/ca.crt", tls / "ca.crt", folder / "private/deploy/compose/stack/platform-ca.crt"):
        file.write_text(certificate_to_pem(authority.certificate))
    (tls / "api.crt").write_text(pair.certificate_pem)
    (tls / "api.key").write_text(pair.key_pem.reveal())
    (folder / "private/deploy/compose/stack/compose.override.yaml").write_text(_OVERRIDE)
    try:
        yield made
    finally:
        made.platform.close()
        made.private.close()
        down = ["docker", "compose", "down", "--volumes", "--timeout", "0"]
        for at in ("second/penstock", "private/deploy/compose/stack", "platform/deploy/compose/platform"):
            if (folder / at).exists():
                subprocess.run(down, cwd=folder / at, env=environment, check=False, capture_output=True)
        _as_other_hosts(made, "--delete")
        compose.docker("rmi", "penstock:0.1.1", check=False)


def _as_other_hosts(hosts: Hosts, what: str) -> None:
    """The engine keeps its networks apart; the platform's is to be reached by its ports as another host's is."""
    for direction in ("--source", "--destination") if hosts.outside else ():
        rule = ["iptables", what, "DOCKER-USER", direction, hosts.outside, "--jump", "ACCEPT"]
        subprocess.run(rule, check=True)


def of_project(name: str) -> dict[str, list[str]]:
    """Everything the engine still has of a Compose project."""
    label = f"label=com.docker.compose.project={name}"
    asked = {"ps": ("ps", "--all", "--quiet"), "network": ("network", "ls", "--quiet"), "volume": ("volume", "ls", "--quiet")}
    return {kind: compose.docker(*command, "--filter", label).split() for kind, command in asked.items()}


def test_the_platform_is_up_as_the_page_says(hosts: Hosts) -> None:
    hosts.platform.type(COMPOSE.commands("platform"))
    file = hosts.platform.folder / "deploy/compose/platform/first.json"
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    hosts.first = json.loads(file.read_text())
    [outside] = json.loads(compose.docker("network", "inspect", "platform_outside"))
    hosts.outside = outside["IPAM"]["Config"][0]["Subnet"]
    _as_other_hosts(hosts, "--insert")


def test_the_private_side_is_up_as_the_page_says_and_a_call_goes_through(hosts: Hosts) -> None:
    hosts.private.changes["pst-…"] = hosts.first["tunnels_key"]
    hosts.private.type(COMPOSE.commands("stack"))
    compose.until(hosts.works, "answering", 120)


def test_a_second_host_is_a_copy_of_the_folder(hosts: Hosts) -> None:
    hosts.private.type(COMPOSE.commands("hosts"))
    agent = compose.docker("ps", "--quiet", "--filter", "label=com.docker.compose.project=penstock")
    assert len(agent.split()) == 3
    subprocess.run(["docker", "compose", "down"], cwd=hosts.second / "penstock", check=True, capture_output=True)


def test_token_and_certificate_are_changed_as_the_page_says(hosts: Hosts) -> None:
    token, certificate = ((hosts.data / name).read_text() for name in ("tunnel-token", "tls.crt"))
    hosts.private.type(COMPOSE.commands("rotate", "renew"))
    assert (hosts.data / "tunnel-token").read_text() != token
    assert (hosts.data / "tls.crt").read_text() == certificate  # 720h are left
    compose.until(hosts.works, "answering with the new token", 120)


def test_only_what_the_packet_filter_lets_through_is_reached(hosts: Hosts) -> None:
    # Published ports are translated before the chain sees them.
    theirs = {"192.0.2.10": hosts.outside, "192.0.2.20": hosts.outside, "7844,7845": "7844"}
    stack = hosts.private.folder / "deploy/compose/stack"

    def reaches(name: str, port: int) -> bool:
        ask = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close(); print('reached')"
        python = ["/opt/penstock/bin/python", "-c", ask, name, str(port)]
        said = subprocess.run(
            ["docker", "compose", "exec", "-T", "mcp-gateway", *python], cwd=stack, check=False, capture_output=True, text=True
        )
        return said.stdout.strip() == "reached"

    assert reaches("edge.example.com", 8443)
    try:
        with Terminal(stack, hosts.private.environment, changes=theirs) as host:
            host.type(NETWORK.commands("filter"))
        assert reaches("edge.example.com", 7844)
        assert not reaches("edge.example.com", 8443)
        assert not reaches("172.17.0.1", 22)
        assert hosts.works()
    finally:
        with Terminal(stack, hosts.private.environment) as host:
            host.type(NETWORK.commands("unfilter"))
    assert reaches("edge.example.com", 8443)


def test_it_is_backed_up_upgraded_and_restored_as_the_page_says(hosts: Hosts) -> None:
    hosts.platform.type(COMPOSE.commands("backup", "upgrade platform"))
    hosts.private.type(COMPOSE.commands("upgrade stack"))
    compose.until(hosts.works, "answering after the upgrade", 120)
    hosts.platform.type(COMPOSE.commands("restore"))
    compose.until(hosts.works, "answering after the restore", 120)


def test_a_breach_stop_ends_the_tunnel_and_leaves_only_the_folder(hosts: Hosts) -> None:
    hosts.private.type(COMPOSE.commands("breach"))
    assert of_project("stack") == {"ps": [], "network": [], "volume": []}
    assert (hosts.data / "tunnel-token").exists()
    assert "tunnel_not_found" in hosts.call() or not hosts.works()


def test_a_teardown_leaves_no_secret_and_nothing_on_the_engine(hosts: Hosts) -> None:
    token = (hosts.data / "tunnel-token").read_text().strip()
    hosts.private.type(COMPOSE.commands("teardown stack"))
    hosts.platform.type(COMPOSE.commands("teardown platform"))
    for project in ("stack", "platform"):
        assert of_project(project) == {"ps": [], "network": [], "volume": []}
    left = [file for host in (hosts.private, hosts.platform) for file in host.folder.rglob("*") if file.is_file()]
    secrets = [token, *(value for name, value in hosts.first.items() if name.endswith(("_key", "_password", "_token")))]
    assert [file for file in left for secret in secrets if secret.encode() in file.read_bytes()] == []
