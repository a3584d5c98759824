"""A stock `cloudflared`, unmodified, as a process: the binary that `$CLOUDFLARED` names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
from tests.support.site import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from penstock.config.types import HostPort
    from penstock.secret import Secret

BINARY = os.environ.get("CLOUDFLARED", "")


@dataclass
class StockAgent:
    """One running process. Its environment is the one that the guide for stock agents gives."""

    process: asyncio.subprocess.Process
    log: Path
    metrics: str
    said_at_stop: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """What it logged."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def count(self, text: str) -> int:
        """Lines that hold `text`."""
        return sum(text in line for line in self.lines)

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    async def ready(self) -> int:
        """How many connections it says are ready; 0 while it answers nothing."""
        with contextlib.suppress(httpx2.HTTPError, ValueError):
            async with httpx2.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://{self.metrics}/ready", timeout=2.0)
                return int(json.loads(answer.content)["readyConnections"])
        return 0

    async def until_ready(self, links: int, *, seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while await self.ready() != links:
                assert self.is_running, "\n".join(self.lines)
                await asyncio.sleep(0.05)

    async def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM; its exit code."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(seconds):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def stock_agent(
    folder: Path, token: Secret, edges: list[HostPort], ca_pem: str, *, url: str, name: str = "cloudflared", **more: str
) -> AsyncIterator[StockAgent]:
    """`cloudflared tunnel --no-autoupdate run --url …`: the published command line, pointed at our edge by its environment."""
    ca_file = folder / f"{name}-edge-ca.pem"
    ca_file.write_text(ca_pem)
    metrics = f"127.0.0.1:{_free_port()}"
    environment = {
        "HOME": str(folder),
        "PATH": "/usr/bin:/bin",
        "TUNNEL_TOKEN": token.reveal(),
        "TUNNEL_EDGE": ",".join(map(str, edges)),
        "TUNNEL_CACERT": str(ca_file),
        "TUNNEL_TRANSPORT_PROTOCOL": "http2",
        "TUNNEL_NO_PRECHECKS": "true",
        "TUNNEL_MANAGEMENT_DIAGNOSTICS": "false",
        "TUNNEL_METRICS": metrics,
        "NO_AUTOUPDATE": "true",
        **more,
    }
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(BINARY, "tunnel", "--no-autoupdate", "run", "--url", url),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    agent = StockAgent(process, log, metrics)
    try:
        yield agent
    finally:
        if agent.is_running:
            process.kill()
        await process.wait()


async def registered(agent: StockAgent, count: Any, links: int) -> None:
    """Wait until the edge counts `links` (a function) and the agent says the same."""
    await until(lambda: count() == links, seconds=30)
    await agent.until_ready(links)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port
