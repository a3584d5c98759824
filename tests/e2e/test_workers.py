"""An edge of two workers, as processes: a killed one costs two seconds at most, one signal stops all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support.chain import Chain
from tests.support.mcp_servers import Recorder, Stage, sdk_server, serving

from penstock.client import TunnelTransport
from penstock.config.types import HostPort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def chain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chain]:
    app = Recorder(sdk_server(Stage()).streamable_http_app())
    async with serving(app) as url:
        routes = {"echo": {"url": url, "host_header": "upstream"}}
        async with Chain(tmp_path_factory.mktemp("chain"), routes, edge_settings={"workers": 2}) as started:
            yield started


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it ended meanwhile
        return ""


async def links(chain: Chain) -> list[float]:
    """What each worker's own page says it holds; nothing where one does not answer."""
    found: list[float] = []
    with contextlib.suppress(httpx2.TransportError):
        for number in range(2):
            address = HostPort(chain.ports.edge_admin.host, chain.ports.edge_admin.port + number)
            async with httpx2.AsyncClient() as http:
                page = (await http.get(f"http://{address}/metrics")).text
            found += [float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith("penstock_edge_links ")]
    return found


async def each_holds_a_link(chain: Chain) -> bool:
    held = await links(chain)
    return len(held) == 2 and min(held) >= 1 and sum(held) == 4


async def call(chain: Chain) -> int:
    """One call on a stream of its own."""
    async with httpx2.AsyncClient(transport=TunnelTransport(chain.access), timeout=10.0) as client:
        return (await client.get(chain.url("echo", "/"))).status_code


async def test_both_workers_serve_and_a_killed_one_is_replaced_while_the_other_serves(chain: Chain) -> None:
    parent = chain.roles["edge"].process.pid
    before = children(parent)
    assert len(before) == 2
    assert {await call(chain) for _ in range(12)} == {404}  # the sample server has nothing at /
    async with asyncio.timeout(30):
        while await each_holds_a_link(chain) is False:
            await asyncio.sleep(0.1)

    os.kill(before[0], signal.SIGKILL)
    async with asyncio.timeout(2):
        assert await call(chain) == 404
    async with asyncio.timeout(30):
        while len(after := children(parent)) < 2 or before[0] in after:
            await asyncio.sleep(0.05)
        while sum(await links(chain)) < 4:
            await asyncio.sleep(0.1)
    assert before[1] in after
    assert {await call(chain) for _ in range(12)} == {404}


async def test_workers_whose_first_process_is_killed_stop_by_themselves(tmp_path: Path) -> None:
    async with Chain(tmp_path, {"echo": "http://127.0.0.1:9"}, edge_settings={"workers": 2}) as chain:
        workers = children(chain.roles["edge"].process.pid)
        assert len(workers) == 2
        chain.roles["edge"].process.kill()
        async with asyncio.timeout(30):
            while any("penstock" in command_line(pid) for pid in workers if Path(f"/proc/{pid}").exists()):
                await asyncio.sleep(0.1)
        said = chain.roles["edge"].said()
        assert "the process that started this worker is gone" in said
        assert "Traceback" not in said


async def test_an_edge_that_died_with_its_folder_has_its_name_back_within_seconds(chain: Chain) -> None:
    edge = chain.roles["edge"].process
    for pid in (*children(edge.pid), edge.pid):
        os.kill(pid, signal.SIGKILL)  # none says goodbye: control takes the edge for alive until its lease is over
    edge.wait()
    shutil.rmtree(chain.folder / "edge")
    chain.run("edge", ["--config", str(chain.folder / "edge.yaml")])
    async with asyncio.timeout(90):  # of which ten the lease, five at most until the next try, and links that come back
        await chain.until_ready("edge", f"http://{chain.ports.edge_admin}/readyz")
        while sum(await links(chain)) < 4:
            await asyncio.sleep(0.1)
    assert await call(chain) == 404
    assert "the name 'edge-1' is taken" in chain.roles["edge"].said()


async def test_one_signal_stops_all_of_them(chain: Chain) -> None:
    workers = children(chain.roles["edge"].process.pid)
    chain.stop()
    assert chain.roles["edge"].process.returncode == 0
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists() and "penstock" in command_line(pid)]
    assert "Traceback" not in chain.roles["edge"].said()
