"""`penstock setup` as a process: killed at every step of its work, renewing and rotating under a proxy that serves."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.command import PENSTOCK, environment
from tests.support.control import database, start_api
from tests.support.provisioned import FAST, Side

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
