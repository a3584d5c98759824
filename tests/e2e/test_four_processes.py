"""The four roles as four processes, each from its config file: the call `penstock up` makes, without `penstock up`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import yaml
from mcp import types
from tests.support.chain import Chain
from tests.support.command import run
from tests.support.mcp_servers import Recorder, Stage, sdk_server, serving

from penstock.client import TunnelTransport, mcp_session
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def chain(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Chain]:
    app = Recorder(sdk_server(Stage()).streamable_http_app())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # inherited, it would make every import slow
        async with serving(app) as url:
            routes = {"echo": {"url": url, "host_header": "upstream"}, "kept": url}
            async with Chain(tmp_path_factory.mktemp("chain"), routes) as started:
                yield started


async def test_a_call_goes_through_four_processes(chain: Chain) -> None:
    async with mcp_session(chain.url("echo"), chain.access) as session:
        result = await session.call_tool("hello", {"name": "four"})
    assert [part.text for part in result.content if isinstance(part, types.TextContent)] == ["Hello, four!"]
    assert len({role.process.pid for role in chain.roles.values()}) == 4


async def test_each_role_says_what_it_does_in_json_and_no_secret(chain: Chain) -> None:
    events: set[str] = set()
    for role in chain.roles.values():
        for line in role.said().splitlines():
            entry = json.loads(line)  # not a terminal: JSON, every line
            assert entry["role"] == role.name
            events.add(entry["event"])
    assert {"Registered tunnel connection", "route configured", "request started"} <= events
    everything = "".join(role.said() for role in chain.roles.values())
    assert chain.access.api_key.reveal() not in everything
    assert chain.stack.token_file.read_text().strip() not in everything
    assert (chain.folder / "enrolment-token").read_text().strip() not in everything


async def test_away_from_up_a_421_passes_and_the_log_says_what_to_set(chain: Chain) -> None:
    async with httpx2.AsyncClient(transport=TunnelTransport(chain.access)) as http:
        answer = await http.post(chain.url("kept"), json={})
    assert (answer.status_code, answer.text) == (421, "Invalid Host header")
    assert "set host_header: upstream on route kept" in chain.roles["proxy"].said()


async def test_no_argument_of_a_process_is_a_secret(chain: Chain) -> None:
    token = chain.stack.token_file.read_text().strip()
    for role in chain.roles.values():
        assert token not in " ".join(map(str, role.process.args))


LISTENERS = {
    "control": ["listen_addr"],
    "edge": ["callers_addr", "agents_addr"],
    "agent": [],
    "proxy": ["listen_addr"],
}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("role", "busy"),
    [(role, "admin port") for role in LISTENERS] + [(role, "listeners") for role, names in LISTENERS.items() if names],
)
async def test_a_role_whose_port_is_taken_ends_with_one_line_and_2(chain: Chain, tmp_path: Path, role: str, busy: str) -> None:
    settings = yaml.safe_load((chain.folder / f"{role}.yaml").read_text())
    free = choose_free()
    if busy == "admin port":  # what listens already has to be let go of again, or the process would not end
        settings.update(
            {name: str(getattr(free, port)) for name, port in zip(LISTENERS[role], ("callers", "agents"), strict=False)}
        )
    else:
        settings["admin_addr"] = str(free.proxy_admin)
    for name in ("data_dir", "state_dir"):
        if name in settings:
            settings[name] = str(tmp_path / name)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    token = {"TUNNEL_TOKEN": chain.stack.token_file.read_text().strip()} if role == "agent" else {}

    ended = await asyncio.to_thread(run, role, "--config", "config.yaml", folder=tmp_path, **token)

    assert ended.returncode == 2, ended.stderr
    said = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert said[0].startswith("penstock: ")
    assert said[-1].startswith("  hint: ")
    assert "Traceback" not in ended.stderr


async def test_every_role_stops_in_order_on_sigterm(chain: Chain) -> None:
    assert chain.stop() == {"agent": 0, "proxy": 0, "edge": 0, "control": 0}
    assert "Traceback" not in "".join(role.said() for role in chain.roles.values())


BROKEN = {
    "control": {"data_dir": "/proc/nowhere"},
    "edge": {"control_url": "http://127.0.0.1:1"},
    "agent": {"url": "https://127.0.0.1:8080/path"},
    "proxy": {"tunnel_domain": "x.example", "routes": {"a": "not a url"}},
}


@pytest.mark.e2e
@pytest.mark.parametrize("role", BROKEN)
def test_a_role_with_a_wrong_setting_ends_with_one_line_and_2(role: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BROKEN[role]))
    ended = run(role, "--config", "config.yaml", folder=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.startswith("penstock: ")
    assert "Traceback" not in ended.stderr
    assert re.fullmatch(r"(penstock: .*\n)(  because: .*\n)?(  hint: .*\n)?", ended.stderr)


@pytest.mark.e2e
@pytest.mark.parametrize("role", ["control", "edge", "agent", "proxy"])
def test_a_role_without_its_file_says_which_one(role: str, tmp_path: Path) -> None:
    ended = run(role, "--config", "no-such.yaml", folder=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "no-such.yaml" in ended.stderr
    assert sys.executable not in ended.stderr
