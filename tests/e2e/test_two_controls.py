"""Two control processes on one PostgreSQL: what is changed at one reaches an edge that follows the other."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.chain import Chain
from tests.support.load import answering
from tests.support.store import STORES, make_config

from penstock.client.control import ControlClient
from penstock.client.streams import TunnelStreams
from penstock.control.service.audit_log import verify
from penstock.control.service.bootstrap import open_core
from penstock.errors import PenstockError
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(300)]

WITHIN = 5.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


async def test_what_is_ended_at_one_is_cut_at_an_edge_that_follows_the_other(tmp_path: Path) -> None:
    store = STORES["postgresql"].empty()
    async with answering() as url, Chain(tmp_path, {"echo": url}, control_settings=store) as chain:
        second = await _second_control(chain, store)
        host = f"echo.{chain.stack.domain}"
        async with (
            contextlib.aclosing(TunnelStreams(chain.access)) as streams,
            ControlClient(second, chain.manager.api_key) as control,
        ):
            [tunnel] = [each async for each in control.tunnels()]  # made at the first
            pipe = await (await streams.open(host)).start_tls()
            began = asyncio.get_running_loop().time()
            await control.archive_tunnel(tunnel.id)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await asyncio.wait_for(pipe.read(1), WITHIN)
            assert asyncio.get_running_loop().time() - began < WITHIN
            with pytest.raises(PenstockError):
                await streams.open(host)
    async with open_core(make_config(tmp_path / "control", **store)) as core:
        assert (await verify(core)).findings == []  # one chain, whoever wrote


async def _second_control(chain: Chain, store: dict[str, Any]) -> str:
    ports = choose_free()
    settings = {
        "data_dir": str(chain.folder / "control-2"),
        "master_key_file": str(chain.folder / "control" / "master.key"),
        "listen_addr": str(ports.control),
        "admin_addr": str(ports.control_admin),
        **store,
    }
    chain.run("control", ["--config", str(chain.write("control-2", settings))], name="control-2")
    await chain.until_ready("control-2", f"http://{ports.control_admin}/readyz")
    return f"http://{ports.control}"
