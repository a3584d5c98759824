"""The process that keeps an edge's workers; what stands in their place here only serves and waits."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.support.site import until

from penstock.edge.workers import Workers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.site import Site

pytestmark = pytest.mark.anyio

WORKER = """#!{python} -S
import os, socket, sys
folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
name = folder + "/" + os.environ["PENSTOCK_EDGE_WORKER"]
with open(name + ".pid", "w") as file:
    file.write(str(os.getpid()))
if os.path.exists(name + ".sock"):
    os.unlink(name + ".sock")
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(name + ".sock")
    listener.listen()
    sys.stdin.read()
"""


async def test_a_worker_that_could_not_be_started_again_is_started_as_soon_as_it_can_be(site: Site, tmp_path: Path) -> None:
    program, folder = tmp_path / "worker", site.folder / "edge-1" / "workers"
    program.write_text(WORKER.format(python=sys.executable))
    program.chmod(0o700)
    workers = Workers(site.edge_config(workers=1), [str(program), str(folder)])
    with capture_logs() as lines:
        await workers.start()
        try:
            pid = (folder / "0.pid").read_text()
            program.rename(tmp_path / "away")
            os.kill(int(pid), signal.SIGKILL)
            await until(lambda: any(line["event"] == "worker not started" for line in lines))
            (tmp_path / "away").rename(program)
            await until(lambda: (folder / "0.pid").read_text() not in {"", pid})
        finally:
            async with asyncio.timeout(10):
                await workers.stop()
    (said,) = [line["error"] for line in lines if line["event"] == "worker not started"]
    assert "No such file" in said
