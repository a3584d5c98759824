"""The API's certificate from a real ACME authority: obtained, renewed ahead, and kept when the authority is gone."""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
import stat
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from cryptography import x509
from structlog.testing import capture_logs
from tests.support import pebble
from tests.support.store import make_config

from penstock.control.server import Control
from penstock.control.service.bootstrap import initialize
from penstock.net.dial import dial_tcp
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.pebble import Pebble

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(120)]

NAME = "penstock.example.com"


async def config_of(folder: Path, authority: Pebble, port: int, **changes: Any) -> Any:
    acme = {
        "agree_to_terms": True,
        "contact": "ops@example.com",
        "directory_url": authority.directory_url,
        "listen_addr": f"127.0.0.1:{port}",
        "ca_file": str(authority.ca_file),
        "retry_interval": "500ms",
        **changes,
    }
    config = make_config(folder, public_url=f"https://{NAME}", acme=acme)
    if not config.database_file.exists():
        await initialize(config)
    return config


@asynccontextmanager
async def control(config: Any) -> AsyncIterator[Control]:
    started = Control(config)
    await started.start()
    try:
        yield started
    finally:
        await started.stop()


async def presented(running: Control, root: Path) -> x509.Certificate:
    """The certificate that a client which trusts the authority's root is shown for the API's name."""
    context = contexts.control_client(root)
    _, writer = await asyncio.open_connection("127.0.0.1", running.address.port, ssl=context, server_hostname=NAME)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(der)


async def until(true: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.05)


async def test_it_is_obtained_by_answering_the_challenge_and_kept_private(tmp_path: Path) -> None:
    port = pebble.free_port()
    async with pebble.running(tmp_path / "pebble", asks_port=port) as authority:
        config = await config_of(tmp_path / "control", authority, port)
        async with control(config) as running:
            assert "no certificate yet" in str(running.why_not_ready())
            with pytest.raises((ssl.SSLError, OSError)):
                await presented(running, authority.root_file)
            await until(lambda: running.why_not_ready() is None)
            certificate = await presented(running, authority.root_file)
            async with httpx2.AsyncClient(trust_env=False, verify=False) as strangers:
                other = await strangers.get(f"http://127.0.0.1:{port}/v1/tunnels")
                gone = await strangers.get(f"http://127.0.0.1:{port}/.well-known/acme-challenge/..%2Faccount.key")
        assert (other.status_code, gone.status_code) == (404, 404)
        async with control(config) as again:  # what is in the folder is good: nothing is asked for
            assert again.why_not_ready() is None
            assert await presented(again, authority.root_file) == certificate
        assert authority.issued == 1
    files = [file for file in config.acme_folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"account.key", "certificate.pem", "lock"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(config.acme_folder.stat().st_mode) == 0o700


async def test_it_is_renewed_ahead_and_swapped_under_connections_that_live(tmp_path: Path) -> None:
    port = pebble.free_port()
    async with pebble.running(tmp_path / "pebble", asks_port=port, life=15) as authority:
        async with control(await config_of(tmp_path / "control", authority, port)) as running:
            await until(lambda: running.why_not_ready() is None)
            first = await presented(running, authority.root_file)
            context = contexts.control_client(authority.root_file)
            reader, writer = await asyncio.open_connection("127.0.0.1", running.address.port, ssl=context, server_hostname=NAME)
            while (second := await presented(running, authority.root_file)) == first:
                await asyncio.sleep(0.2)
            writer.write(f"GET /healthz HTTP/1.1\r\nhost: {NAME}\r\n\r\n".encode())
            assert b"200" in await reader.readline()
            writer.transport.abort()
        assert second.not_valid_before_utc < first.not_valid_after_utc  # ahead
        assert second.public_key() != first.public_key()


async def test_a_name_that_does_not_lead_here_is_told_with_what_to_do_and_tried_again(tmp_path: Path) -> None:
    port, elsewhere = pebble.free_port(), pebble.free_port()
    async with pebble.running(tmp_path / "pebble", asks_port=port) as authority:
        config = await config_of(tmp_path / "control", authority, elsewhere)
        with capture_logs() as logged:
            async with control(config) as running:
                await until(lambda: sum(line["event"] == "certificate not obtained" for line in logged) > 1)
                assert f"could not verify {NAME}" in str(running.why_not_ready())
        line = next(line for line in logged if line["event"] == "certificate not obtained")
        assert "connection" in line["detail"]
        assert "check DNS, port 80 and the firewall" in line["hint"]
        assert list((config.acme_folder / "challenges").iterdir()) == []
        moved = await config_of(tmp_path / "control", authority, port)
        async with control(moved) as running:
            await until(lambda: running.why_not_ready() is None)


async def test_an_authority_that_is_gone_costs_nothing_while_the_old_one_is_kept(tmp_path: Path) -> None:
    port, at = pebble.free_port(), pebble.free_port()
    async with AsyncExitStack() as kept:
        with capture_logs() as logged:
            async with pebble.running(tmp_path / "pebble", asks_port=port, life=30, port=at) as authority:
                config = await config_of(tmp_path / "control", authority, port, renew_before=0.9)
                running = await kept.enter_async_context(control(config))
                await until(lambda: running.why_not_ready() is None)
                first = await presented(running, authority.root_file)
            await until(lambda: any(line["event"] == "certificate not obtained" for line in logged))
            line = next(line for line in logged if line["event"] == "certificate not obtained")
            assert "does not answer" in line["error"]
            assert "acme.directory_url" in line["hint"]
            assert await presented(running, authority.root_file) == first
            assert running.why_not_ready() is None
        # Another authority at the same place, to whom the account is new.
        async with pebble.running(tmp_path / "other", asks_port=port, port=at) as other:
            (tmp_path / "pebble" / "ca.pem").write_text(other.ca_file.read_text())
            await until(lambda: other.issued == 1)
            async with asyncio.timeout(20):
                while True:
                    try:
                        await presented(running, other.root_file)
                        break
                    except ssl.SSLError:
                        await asyncio.sleep(0.1)


async def test_an_authority_that_issues_to_customers_is_told_who_asks(tmp_path: Path) -> None:
    port = pebble.free_port()
    keys = {name: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=") for name in ("ours", "another's")}
    async with pebble.running(tmp_path / "pebble", asks_port=port, customers={"kid-1": keys["ours"]}) as authority:
        for binding in (None, {"key_id": "kid-1", "hmac_key": keys["another's"]}):
            config = await config_of(tmp_path / "control", authority, port, external_account=binding)
            with capture_logs() as logged:
                async with control(config):
                    await until(lambda: any(line["event"] == "certificate not obtained" for line in logged))
            line = next(line for line in logged if line["event"] == "certificate not obtained")
            assert "refused: " in line["error"], line
            assert "acme.external_account" in str(line["hint"]), line
            assert keys["another's"] not in str(logged)
        (tmp_path / "hmac").write_text(f"{keys['ours']}\n")
        ours = {"key_id": "kid-1", "hmac_key": {"file": str(tmp_path / "hmac")}}
        async with control(await config_of(tmp_path / "control", authority, port, external_account=ours)) as running:
            await until(lambda: running.why_not_ready() is None)
            assert await presented(running, authority.root_file)


async def test_of_two_processes_on_one_folder_one_asks_and_either_answers(tmp_path: Path) -> None:
    asked, other = pebble.free_port(), pebble.free_port()
    async with pebble.running(tmp_path / "pebble", asks_port=asked) as authority:
        first = await config_of(tmp_path / "control", authority, other)
        second = await config_of(tmp_path / "control", authority, asked)
        async with control(first) as renews, control(second) as answers:
            await until(lambda: renews.why_not_ready() is None and answers.why_not_ready() is None)
            assert await presented(renews, authority.root_file) == await presented(answers, authority.root_file)
        assert authority.issued == 1


async def test_the_challenge_port_lets_nobody_else_hold_it(tmp_path: Path) -> None:
    port = pebble.free_port()
    async with pebble.running(tmp_path / "pebble", asks_port=port, life=3600) as authority:
        config = await config_of(tmp_path / "control", authority, port)
        async with control(config) as running:
            idle = [await dial_tcp("127.0.0.1", port) for _ in range(48)]
            await until(lambda: running.why_not_ready() is None)
            for held in idle:
                held.abort()
