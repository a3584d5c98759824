"""What a start costs: the CPU of each role until it says that it works, and of the commands that are run again and again."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support import ca, cpu
from tests.support.command import standing
from tests.support.site import Site
from tests.support.store import database  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control import Initial
    from tests.support.store import Store

_EDGE = """\
name: edge-1
control_url: {url}
enrolment_token_file: token
state_dir: state
callers_addr: 127.0.0.1:0
agents_addr: 127.0.0.1:0
advertise_callers: edge.example.com:8443
advertise_agents: edge.example.com:7844
admin_addr: 127.0.0.1:0
"""
_PROXY = f"""\
listen_addr: 127.0.0.1:0
admin_addr: 127.0.0.1:0
tunnel_domain: {ca.DOMAIN}
tls: {{cert_file: tls.crt, key_file: tls.key}}
routes: {{echo: http://127.0.0.1:9000}}
"""


def start(folder: Path, said: str, *arguments: str, **variables: str) -> float:
    """A start's CPU until `said`."""
    with standing(*arguments, folder=folder, **variables) as role:
        role.until(said)
        return cpu.spent(role.process.pid)


@pytest.mark.anyio
async def test_control_starts_with_a_second_of_cpu(tmp_path: Path, database: Store) -> None:  # noqa: F811 - the fixture
    config, _ = await database.initialized(tmp_path / "control", {})
    url = config.database_url.reveal() if config.database_url is not None else None
    settings = {
        "data_dir": str(config.data_dir),
        "listen_addr": "127.0.0.1:0",
        "admin_addr": "127.0.0.1:0",
        "database_url": url,
    }
    (tmp_path / "control.yaml").write_text(json.dumps(settings))
    assert cpu.least(lambda: start(tmp_path, "control listening", "control", "--config", "control.yaml"), 1.2) < 1.2


def test_an_edge_starts_with_little_cpu(tmp_path: Path, platform: tuple[str, Initial]) -> None:
    url, initial = platform
    (tmp_path / "token").write_text(initial.enrolment_token.reveal())
    (tmp_path / "edge.yaml").write_text(_EDGE.format(url=url))
    assert cpu.least(lambda: start(tmp_path, "edge listening", "edge", "--config", "edge.yaml"), 0.8) < 0.8


def test_a_proxy_starts_with_little_cpu(tmp_path: Path) -> None:
    pair = ca.server(ca.ca())
    (tmp_path / "tls.crt").write_text(pair.certificate_pem)
    (tmp_path / "tls.key").write_text(pair.key_pem.reveal())
    (tmp_path / "proxy.yaml").write_text(_PROXY)
    assert cpu.least(lambda: start(tmp_path, "proxy started", "proxy", "--config", "proxy.yaml"), 0.7) < 0.7


@pytest.mark.anyio
async def test_an_agent_starts_with_little_cpu(tmp_path: Path) -> None:
    variables = {"TUNNEL_TOKEN": Site(tmp_path).token("127.0.0.1:9").reveal(), "TUNNEL_METRICS": "127.0.0.1:0"}
    assert cpu.least(lambda: start(tmp_path, "connIndex", "agent", **variables), 0.6) < 0.6


@pytest.mark.parametrize(("arguments", "bound"), [("health edge", 0.15), ("--help", 0.45)])
def test_what_is_run_again_and_again_is_light(arguments: str, bound: float) -> None:
    assert cpu.least(lambda: cpu.of(sys.executable, "-m", "penstock", *arguments.split()), bound) < bound
