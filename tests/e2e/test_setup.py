"""`penstock setup` as a process: killed at every step of its work, renewing and rotating under a proxy that serves."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support.chain import Chain
from tests.support.command import PENSTOCK, environment, run
from tests.support.control import database, start_api
from tests.support.mcp_servers import Recorder, Stage, sdk_server, serving
from tests.support.provisioned import FAST, Side

from penstock.client import TunnelTransport
from penstock.client.control import ControlClient
from penstock.errors import PenstockError, UnavailableError
from penstock.setup.traffic import see_under
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from penstock.config.types import HostPort

__all__ = ["database", "start_api"]
pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(400)]


# --- killed -------------------------------------------------------------------------------------------------------------


@dataclass
class Tollgate:
    """Passes bytes between setup and control, and counts them piece by piece; at piece `at` the traveller is killed instead."""

    target: HostPort
    at: int
    passed: int = 0
    traveller: subprocess.Popen[str] | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(self.target.host, self.target.port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self._pass(reader, here), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                if self.passed == self.at and self.traveller is not None:
                    self.traveller.kill()
                    return
                self.passed += 1
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


def _start(side: Side, url: str) -> subprocess.Popen[str]:
    arguments = ["setup", "init", f"--output=dir:{side.folder}", "--key-type=ecdsa", "--token-version=1", f"--api-url={url}"]
    return subprocess.Popen(
        [PENSTOCK, *arguments],
        env=environment(side.folder.parent, API_TOKEN=side.api.initial.tunnels_key.reveal()),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


async def _finished_by_the_next_run(side: Side, tunnels: int) -> None:
    wanted = replace(FAST, token_version="1")
    await side.init(wanted)
    assert len(await side.tunnels()) == tunnels
    assert len(await side.certificates()) == 1
    assert await side.init(wanted) == []
    assert [name.name for name in side.folder.glob(".*")] == [".setup.lock"]


async def test_killed_at_every_piece_that_passes_the_wire_the_next_run_finishes(
    start_api: Callable[..., Any], tmp_path: Path
) -> None:
    started = await start_api(limits={"tunnels_per_organization": 1000})
    at, code = 0, -9
    while code == -9:
        side = Side(started, tmp_path / f"wire-{at}")
        gate = Tollgate(started.control.address, at)
        async with gate.open() as url:
            gate.traveller = _start(side, url)
            _, said = await asyncio.to_thread(gate.traveller.communicate)
            code = gate.traveller.returncode
        assert code in {0, -9}, said
        at += 1
        await _finished_by_the_next_run(side, at)
    assert at > 10


async def test_killed_at_every_line_that_it_says_the_next_run_finishes(start_api: Callable[..., Any], tmp_path: Path) -> None:
    started = await start_api(limits={"tunnels_per_organization": 1000})
    at, code = 0, -9
    while code == -9:
        side = Side(started, tmp_path / f"line-{at}")
        process = _start(side, started.control.url)
        assert process.stderr is not None
        for _ in range(at + 1):
            if not await asyncio.to_thread(process.stderr.readline):
                break
        else:
            process.kill()
        code = await asyncio.to_thread(process.wait)
        process.stderr.close()
        at += 1
        await _finished_by_the_next_run(side, at)
    assert at > 5


async def test_processes_at_once_make_one_private_side(start_api: Callable[..., Any], tmp_path: Path) -> None:
    side = Side(await start_api(), tmp_path / "data")
    processes = [_start(side, side.api.control.url) for _ in range(4)]
    ended = [await asyncio.to_thread(process.communicate) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, ended
    await _finished_by_the_next_run(side, 1)


# --- under load ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncGenerator[Chain]:
    app = Recorder(sdk_server(Stage()).streamable_http_app())
    async with serving(app) as url, Chain(tmp_path, {"echo": url}, {"reload_interval": 0.1}) as started:
        yield started


@dataclass
class Load:
    """Calls without a pause: some on connections that are kept, some on a new one each; and what came of them."""

    chain: Chain
    calls: int = 0
    failed: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._call(is_kept=number % 2 == 0)) for number in range(4)]
            try:
                await self._until(8)
                yield
                await self._until(self.calls + 8)
            finally:
                for task in tasks:
                    task.cancel()

    async def _until(self, calls: int) -> None:
        async with asyncio.timeout(60):
            while self.calls < calls:
                await asyncio.sleep(0.05)

    async def _call(self, *, is_kept: bool) -> None:
        async with TunnelTransport(self.chain.access) as transport:
            while True:
                headers = {} if is_kept else {"connection": "close"}
                request = httpx2.Request("GET", self.chain.url("echo", "/nothing"), headers=headers)
                try:
                    response = await transport.handle_async_request(request)
                    await response.aread()
                except (httpx2.HTTPError, PenstockError) as exc:
                    self.failed.append(f"{type(exc).__name__}: {exc}")
                else:
                    if response.status_code != 404 or "penstock-error" in response.headers:
                        self.failed.append(f"{response.status_code} {response.headers}")
                self.calls += 1
                await asyncio.sleep(0.02)


async def _setup(chain: Chain, *arguments: str) -> str:
    variables = {"API_TOKEN": chain.manager.api_key.reveal(), "PENSTOCK_API_KEY": chain.access.api_key.reveal()}
    output = f"--output=dir:{chain.stack.folder}"
    command = partial(run, "setup", *arguments, output, folder=chain.folder, seconds=240, **variables)
    ended = await asyncio.to_thread(command)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


async def test_a_certificate_is_renewed_under_load_and_no_call_fails(chain: Chain) -> None:
    load = Load(chain)
    async with load.running():
        for number, key_type in enumerate(("ecdsa", "rsa", "ecdsa", "ecdsa"), start=1):
            before = (chain.stack.folder / "tls.crt").read_text()
            await _setup(chain, "renew-cert", f"--key-type={key_type}")
            assert (chain.stack.folder / "tls.crt").read_text() != before
            await _until_shown(chain, number)
            assert "nothing to do" in await _setup(chain, "renew-cert", "--renew-before=720h")
    assert load.failed == []
    assert "certificate not reloaded" not in chain.roles["proxy"].said()  # it never met a pair that did not match
    sys.stdout.write(f"{load.calls} calls, none failed\n")


async def _until_shown(chain: Chain, times: int) -> None:
    """The proxy has taken up what lies in its folder: it says so, once for each change."""
    async with asyncio.timeout(30):
        while chain.roles["proxy"].said().count("certificate reloaded") < times:
            await asyncio.sleep(0.1)


async def test_the_ca_is_rotated_under_load_and_no_call_fails(chain: Chain) -> None:
    old = (chain.stack.folder / "ca.crt").read_text()
    load = Load(chain)
    async with load.running():
        said = await _setup(chain, "rotate-ca", f"--api-url={chain.manager.api_url}")
    assert load.failed == []
    sys.stdout.write(f"{load.calls} calls, none failed\n")
    assert "calls pass under the new CA" in said
    new = (chain.stack.folder / "ca.crt").read_text()
    assert certs.is_issued_by(certs.load_certificate(new), [certs.load_certificate(old)])
    async with ControlClient(chain.manager.api_url, chain.manager.api_key) as platform:
        [registered] = await platform.certificates(chain.stack.tunnel_id)
    assert registered.fingerprint == certs.fingerprint(certs.load_certificate(new))
    with pytest.raises(UnavailableError, match="do not pass under the new CA yet"):  # nor would it be said of the old one
        await see_under(chain.access, chain.stack.domain, old, patience=0.0)
