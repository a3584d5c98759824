"""The private side in one process, against a control plane and an edge of their own."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.idp import ISSUER, Idp
from tests.support.mcp_servers import Stage, sdk_server, serving
from tests.support.world import World, world

from penstock.client.control import ControlClient
from penstock.client.sessions import SignIn
from penstock.errors import ConfigError, UnavailableError
from penstock.secret import Secret
from penstock.setup.directory import Directory
from penstock.stack import program
from penstock.stack.ports import Ports, check_free, choose_free
from penstock.stack.program import Options, running
from penstock.stack.routes import parse_routes
from penstock.stack.screen import Screen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[World]:
    folder = tmp_path / "platform"
    folder.mkdir()
    async with world(folder) as started:
        yield started


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    async with serving(sdk_server(Stage()).streamable_http_app()) as url:
        yield url


def options(platform: World, folder: Path, upstream: str, **environment: str) -> Options:
    """With a key to prove calls with, and the credential that is given."""
    key = {"PENSTOCK_API_KEY": platform.initial.api_key.reveal(), "HOME": str(folder.parent)}
    return Options(
        platform.control.url, parse_routes([f"my={upstream}"]), folder, ports=choose_free(Ports), environment=key | environment
    )


async def proven(chosen: Options, capsys: pytest.CaptureFixture[str]) -> str:
    """Run it, prove it, stop it: the domain."""
    async with running(chosen, Screen()) as tunnel:
        await tunnel.prove(tunnel.access(), Screen())
    assert "my: tools/list → 5 tools" in capsys.readouterr().out
    check_free(chosen.ports, "stack")
    return tunnel.domain


async def test_a_tunnels_key_sets_everything_up_once_and_the_folder_alone_is_enough_from_then_on(
    platform: World, tmp_path: Path, upstream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "stack"
    key = platform.initial.tunnels_key.reveal()
    first = await proven(options(platform, folder, upstream, API_TOKEN=key), capsys)
    kept = await Directory(folder).load()
    assert await proven(options(platform, folder, upstream), capsys) == first
    assert await proven(options(platform, folder, upstream, API_TOKEN=key), capsys) == first
    assert await Directory(folder).load() == kept
    async with ControlClient(platform.control.url, platform.initial.tunnels_key) as client:
        assert [tunnel.domain async for tunnel in client.tunnels()] == [first]
    for name in ("tunnel-token", "tls.key", "ca.key"):
        assert (folder / name).stat().st_mode & 0o077 == 0


async def test_a_workloads_own_identity_sets_it_up(
    platform: World, tmp_path: Path, upstream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    idp = Idp()
    chosen = options(platform, tmp_path / "stack", upstream, **await federated(platform, idp))
    await proven(chosen, capsys)
    workspace = (tmp_path / "stack" / "workspace-id").read_text().strip()
    assert workspace == platform.initial.workspace_id, "the proxy serves this workspace's callers alone"


async def test_a_platform_that_is_away_stops_a_first_start_and_no_later_one(
    platform: World, tmp_path: Path, upstream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = options(platform, tmp_path / "stack", upstream, API_TOKEN=platform.initial.tunnels_key.reveal())
    await proven(chosen, capsys)
    fresh = dataclasses.replace(chosen, folder=tmp_path / "fresh")
    await platform.control.stop()
    async with running(chosen, Screen()):
        pass
    assert "going on with what is in" in capsys.readouterr().err
    with pytest.raises(UnavailableError, match="nothing listens at"):
        async with running(fresh, Screen()):
            pass
    check_free(fresh.ports, "stack")


async def test_the_certificate_is_renewed_while_it_runs(
    platform: World, tmp_path: Path, upstream: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(platform, tmp_path / "stack", upstream, API_TOKEN=platform.initial.tunnels_key.reveal())
    monkeypatch.setattr(program, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(program, "_RENEW_BEFORE", program.CERTIFICATE_LIFE * 2)
    async with running(chosen, Screen()) as tunnel:
        first = (tmp_path / "stack" / "tls.crt").read_text()
        async with asyncio.timeout(20):
            while (tmp_path / "stack" / "tls.crt").read_text() == first:
                await asyncio.sleep(0.02)
        await tunnel.prove(tunnel.access(), Screen())


async def test_without_a_key_to_call_with_it_runs_and_says_what_a_proof_needs(
    platform: World, tmp_path: Path, upstream: str
) -> None:
    chosen = options(
        platform, tmp_path / "stack", upstream, API_TOKEN=platform.initial.tunnels_key.reveal(), PENSTOCK_API_KEY=""
    )
    async with running(chosen, Screen()) as tunnel:
        with pytest.raises(ConfigError, match="no API key to prove a call with") as caught:
            tunnel.access()
    assert f"penstock login --api-url {platform.control.url}" in (caught.value.hint or "")


async def federated(platform: World, idp: Idp) -> dict[str, str]:
    """Service account, issuer and rule, made as the admin; the variables of a workload."""
    initial = platform.initial
    async with SignIn(platform.control.url) as door:
        session = await door.with_password(initial.admin_email, initial.admin_password)
    async with ControlClient(platform.control.url, Secret(session.session_token)) as admin:
        account = await admin.ask("POST", "/v1/organizations/service_accounts", json={"name": "ci"})
        jwks = {"type": "inline", "keys": [idp.jwk]}
        issuer = {"name": "idp", "issuer_url": ISSUER, "jwks": jwks}
        made = await admin.ask("POST", "/v1/organizations/federation_issuers", json=issuer)
        rule = await admin.ask(
            "POST",
            "/v1/organizations/federation_rules",
            json={
                "name": "ci",
                "issuer_id": made["id"],
                "match": {"subject_prefix": "system:*", "audience": "https://penstock.example.com"},
                "target": {"type": "service_account", "service_account_id": account["id"]},
                "oauth_scope": "workspace:manage_tunnels",
                "workspace_id": initial.workspace_id,
            },
        )
    return {
        "ANTHROPIC_FEDERATION_RULE_ID": rule["id"],
        "ANTHROPIC_ORGANIZATION_ID": initial.organization_id,
        "ANTHROPIC_IDENTITY_TOKEN": idp.sign(),
    }


async def test_a_look_at_the_certificate_that_fails_is_not_the_last_one(
    platform: World, tmp_path: Path, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(platform, tmp_path / "stack", upstream, API_TOKEN=platform.initial.tunnels_key.reveal())
    monkeypatch.setattr(program, "_LOOK_EVERY", 0.05)
    renewed, faults = program.renew, [OSError(24, "too many open files")]

    async def renew(*arguments: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        looked.set()
        return await renewed(*arguments, **named)

    looked = asyncio.Event()
    monkeypatch.setattr(program, "renew", renew)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with running(chosen, Screen()), asyncio.timeout(20):
        await looked.wait()
