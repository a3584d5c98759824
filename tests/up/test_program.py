from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.mcp_servers import Recorder, Stage, fastmcp_server, sdk_server, serving

from penstock.client.control import ControlClient
from penstock.config.files import read_file
from penstock.control.service.bootstrap import initialize
from penstock.errors import ConfigError, PenstockError, TunnelError
from penstock.stack.routes import Route
from penstock.tls import certs
from penstock.up import roles, stack
from penstock.up.options import Options
from penstock.up.ports import check_free, choose_free
from penstock.up.program import running
from penstock.up.screen import Screen

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def test_a_second_run_has_the_same_identities_even_on_other_ports(tmp_path: Path) -> None:
    domains: list[str] = []
    kept: list[dict[str, str | None]] = []
    for _ in range(2):
        async with running(Options(folder=tmp_path, ports=choose_free()), Screen()) as up:
            await up.prove(Screen())
            domains.append(up.domain)
        names = ("api-key", "tunnels-key", "stack/ca.crt", "stack/tls.crt", "stack/tunnel-id", "control/master.key")
        kept.append({name: read_file(tmp_path / name) for name in names})
    assert domains[0] == domains[1]
    assert kept[0] == kept[1]


async def test_a_folder_of_the_time_when_one_key_did_both_gets_a_second_key(tmp_path: Path) -> None:
    async with running(Options(folder=tmp_path, ports=choose_free()), Screen()) as up:
        domain = up.domain
    (tmp_path / "tunnels-key").unlink()
    async with running(Options(folder=tmp_path, ports=choose_free()), Screen()) as up:
        assert up.domain == domain
    assert (read_file(tmp_path / "tunnels-key") or "").startswith("pst-tunnels-")


async def test_on_the_same_ports_the_edge_keeps_its_identity_too(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, ports=choose_free())
    seen: list[str | None] = []
    for _ in range(2):
        async with running(options, Screen()) as up:
            await up.prove(Screen())
        seen.append(read_file(tmp_path / "edge" / "edge.key"))
    assert seen[0] == seen[1]


async def test_everything_is_stopped_at_the_end_and_nothing_is_left_running(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, ports=choose_free())
    before = asyncio.all_tasks()
    async with running(options, Screen()) as up:
        await up.prove(Screen())
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)
    check_free(options.ports)


async def test_a_start_that_fails_half_way_stops_what_had_started(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, ports=choose_free())
    (tmp_path / "stack").write_text("in the way")
    with pytest.raises((PenstockError, OSError)):
        async with running(options, Screen()):
            pass
    check_free(options.ports)


async def test_several_routes_each_get_their_name_and_their_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sdk, fast = Recorder(sdk_server(Stage()).streamable_http_app()), Recorder(fastmcp_server().http_app(path="/deep/mcp"))
    async with serving(sdk) as sdk_url, serving(fast) as fast_url:
        localhost = sdk_url.replace("127.0.0.1", "localhost")
        routes = (Route.parse(f"one={localhost}"), Route.parse(f"two={fast_url}/deep/mcp"))
        async with running(Options(folder=tmp_path, routes=routes, ports=choose_free()), Screen()) as up:
            await up.prove(Screen())
            assert list(up.urls()) == ["one", "two"]
            assert up.urls()["two"] == f"https://two.{up.domain}/deep/mcp"
    out = capsys.readouterr().out
    assert "one: tools/list → 5 tools: " in out
    assert "two: tools/list → 1 tool: hello" in out
    assert not sdk.calls("tools/call")  # a stranger's tools are never called: they may do anything


async def test_a_folder_of_another_control_plane_says_how_to_begin_anew(tmp_path: Path) -> None:
    async with running(Options(folder=tmp_path, ports=choose_free()), Screen()):
        pass
    (tmp_path / "stack" / "tunnel-id").write_text("tnl_000000000000000000000000\n")
    with pytest.raises(ConfigError, match="not known to this control plane") as caught:
        async with running(Options(folder=tmp_path, ports=choose_free()), Screen()):
            pass
    assert "remove" in (caught.value.hint or "")


async def test_an_archived_tunnel_is_replaced(tmp_path: Path) -> None:
    async with running(Options(folder=tmp_path, ports=choose_free()), Screen()) as up:
        old = up.domain
        async with ControlClient(up.manager.api_url, up.manager.api_key) as control:
            await control.archive_tunnel((tmp_path / "stack" / "tunnel-id").read_text().strip())
        with pytest.raises(TunnelError):
            await up.prove(Screen())
    async with running(Options(folder=tmp_path, ports=choose_free()), Screen()) as up:
        await up.prove(Screen())
        assert up.domain != old


async def test_certificates_are_kept_until_they_are_due_and_then_made_anew(tmp_path: Path) -> None:
    async with running(Options(folder=tmp_path, ports=choose_free()), Screen()) as up:  # noqa: SIM117 - the client needs it up
        async with ControlClient(up.manager.api_url, up.manager.api_key) as control:
            files = (tmp_path / "stack" / "tls.crt", tmp_path / "stack" / "ca.crt")
            first = [file.read_text() for file in files]
            now = datetime.now(UTC)
            await stack.prepare(tmp_path / "stack", control, now=now + timedelta(days=59))
            assert [file.read_text() for file in files] == first
            await stack.prepare(tmp_path / "stack", control, now=now + timedelta(days=61))
            leaf, ca = (file.read_text() for file in files)
            assert leaf != first[0]
            assert ca == first[1]
            assert certs.load_certificate(leaf).not_valid_after_utc > now + timedelta(days=140)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
async def test_a_server_on_ipv6s_loopback_is_one_of_this_machine_too(tmp_path: Path) -> None:
    async with serving(fastmcp_server().http_app(), host="::1") as url:
        options = Options(folder=tmp_path, routes=(Route.parse(f"six={url}"),), ports=choose_free())
        async with running(options, Screen()) as up:
            await up.prove(Screen())


async def test_stopping_while_links_still_register_takes_no_grace_period(tmp_path: Path) -> None:
    """`up` is ready with the first link; a Ctrl-C then must not wait for three that nobody told to go."""
    for _ in range(3):
        async with running(Options(folder=tmp_path, ports=choose_free()), Screen()):
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 3


@pytest.mark.parametrize("kept", [[], ["api-key"], ["api-key", "tunnels-key"]])
async def test_a_first_run_that_was_killed_before_it_wrote_everything_down_is_taken_up(tmp_path: Path, kept: list[str]) -> None:
    options = Options(folder=tmp_path, ports=choose_free())
    initial = await initialize(roles.control(options))
    for name, secret in (("api-key", initial.api_key), ("tunnels-key", initial.tunnels_key)):
        if name in kept:
            (tmp_path / name).write_text(secret.reveal())
    async with running(options, Screen()) as up:
        await up.prove(Screen())
