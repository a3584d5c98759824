"""The agent's command in both spellings, and what becomes of a token."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.support.command import standing
from tests.support.site import SECRET, TUNNEL_ID, Echo, Origin, Site, until

from penstock.cli.arguments import accept_cloudflared
from penstock.errors import ConfigError
from penstock.tls import certs
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Ended


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TUNNEL_")]:
        monkeypatch.delenv(name)


PUBLISHED = ["tunnel", "--no-autoupdate", "run", "--url", "http://localhost:8080"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (PUBLISHED, ["agent", "--no-autoupdate", "--url", "http://localhost:8080"]),
        (["tunnel", "--edge", "run", "run", "--url=x"], ["agent", "--edge", "run", "--url=x"]),
        (["tunnel", "run"], ["agent", "--url", ""]),  # no local target: 503, as published
        (["tunnel", "--protocol", "http2", "run"], ["agent", "--url", "", "--protocol", "http2"]),
        (["tunnel", "--help"], ["agent", "--url", "", "--help"]),
        (["agent", "--url", "x"], ["agent", "--url", "x"]),
        ([], []),
    ],
)
def test_the_published_spelling_is_the_agents_command(given: list[str], taken: list[str]) -> None:
    assert accept_cloudflared(given) == taken


def test_a_local_target_in_the_environment_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNNEL_URL", "http://localhost:8080")
    assert accept_cloudflared(["tunnel", "run"]) == ["agent"]


@pytest.mark.parametrize("given", [["tunnel"], ["tunnel", "list"], ["tunnel", "run", "eyJhIjoi"], ["tunnel", "run", "run"]])
def test_other_commands_and_names_are_refused_and_never_echoed(given: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        accept_cloudflared(given)
    assert "eyJ" not in f"{refused.value.public}{refused.value.hint}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agent", "--token", "eyJhIjoi"], "a token on a command line"),
        (["tunnel", "run", "--token", "eyJhIjoi"], "a token on a command line"),
        (["agent", "--protocol", "quic"], "only http2 is spoken here"),
        (["tunnel", "run", "--credentials-file", "eyJhIjoi"], "No such option: --credentials-file"),
    ],
)
def test_what_cannot_be_done_is_refused_with_exit_code_2(
    command: Callable[..., Ended], arguments: list[str], said: str
) -> None:
    ended = command(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert "eyJ" not in ended.err


@pytest.mark.parametrize("name", ["agent", "token"])
def test_without_a_token_it_is_said_where_one_may_come_from(command: Callable[..., Ended], name: str) -> None:
    ended = command(name)
    assert ended.code == 2
    assert "TUNNEL_TOKEN, TUNNEL_TOKEN_FILE or --token-file" in ended.err
    assert "settings: settings" not in ended.err


@pytest.mark.parametrize("name", ["agent", "token"])
def test_what_is_no_token_is_a_usage_error_as_none_is(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TUNNEL_TOKEN", "garbage!")
    ended = command(name)
    assert ended.code == 2
    assert "garbage" not in ended.err


def test_a_token_is_shown_without_its_secret(
    command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    token = site.token("edge.example.com:7844")
    monkeypatch.setenv("TUNNEL_TOKEN", token.reveal())
    ended = command("token")
    assert json.loads(ended.out) == {
        "tunnel_id": str(TUNNEL_ID),
        "account": "acct-test",
        "secret_bytes": len(SECRET),
        "edges": ["edge.example.com:7844"],
        "ca_sha256": [certs.fingerprint(site.edge_ca.certificate)],
    }
    monkeypatch.delenv("TUNNEL_TOKEN")
    file = tmp_path / "token"
    file.write_text(token.reveal())
    assert command("token", "--token-file", str(file), "--ca").out == site.edge_ca.certificate_pem


@pytest.mark.anyio
async def test_the_published_command_line_registers_says_so_and_leaves_in_order(tmp_path: Path) -> None:
    site = Site(tmp_path)
    async with Origin(Echo) as origin, site.edge() as edge:
        arguments = ["tunnel", "--no-autoupdate", "run", "--url", origin.url]
        token = site.token(str(edge.agents_address)).reveal()
        with standing(*arguments, folder=tmp_path, TUNNEL_TOKEN=token, TUNNEL_METRICS="127.0.0.1:0") as agent:
            await until(lambda: len(list(edge.sessions.links_of(TUNNEL_ID))) == 4, seconds=30)
            stream, _ = await site.open(edge)
            await stream.write(b"hello")
            assert await stream.read(100) == b"hello"
            await stream.aclose()
            assert await asyncio.to_thread(agent.stop, signal.SIGTERM) == 0
            assert edge.sessions.registered == 0
        events = [json.loads(line)["event"] for line in agent.lines]
        assert events.count("Registered tunnel connection") == 4
        assert token not in agent.said


@pytest.mark.anyio
async def test_its_flags_say_where_it_is_asked_whether_it_is_ready_and_how_long_streams_may_go_on(tmp_path: Path) -> None:
    site, metrics = Site(tmp_path), choose_free().agent_metrics
    async with Origin(Echo) as origin, site.edge() as edge, httpx2.AsyncClient(trust_env=False) as http:
        published = ["tunnel", "--metrics", str(metrics), "--grace-period", "1s", "run", "--url", origin.url]
        token = site.token(str(edge.agents_address)).reveal()
        with standing(*published, folder=tmp_path, TUNNEL_TOKEN=token) as agent:
            await until(lambda: len(list(edge.sessions.links_of(TUNNEL_ID))) == 4, seconds=30)
            (connector,) = {session.connector_id for session in edge.sessions.links_of(TUNNEL_ID)}
            ready = await http.get(f"http://{metrics}/ready")
            assert ready.json() == {"status": 200, "readyConnections": 4, "connectorId": connector}
            assert "penstock_agent_links 4.0" in (await http.get(f"http://{metrics}/metrics")).text
            stream, _ = await site.open(edge)
            began = asyncio.get_running_loop().time()
            assert await asyncio.to_thread(agent.stop, signal.SIGTERM) == 0
            assert 1.0 <= asyncio.get_running_loop().time() - began < 20.0  # the default is 30
            with contextlib.suppress(OSError):
                assert not await stream.read(1)
        assert "streams cut at the end of the grace period" in agent.said
