"""`penstock up` in this process, for tests of what calls through it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

from penstock.stack.routes import Route
from penstock.up.options import Options
from penstock.up.ports import choose_free
from penstock.up.program import running
from penstock.up.screen import Screen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from penstock.client import Access
    from penstock.up.program import Up


@dataclass
class Tunnel:
    """A running chain, and what its edge counted."""

    up: Up

    @property
    def access(self) -> Access:
        return self.up.access

    @property
    def manager(self) -> Access:
        return self.up.manager

    def url(self, route: str) -> str:
        return self.up.urls()[route]

    async def streams_opened(self) -> int:
        """How many WebSocket upgrades of callers the edge has accepted."""
        return await self._counted('penstock_edge_streams_opened_total{outcome="accepted"} ')

    async def streams_open(self) -> int:
        """How many streams the edge relays now."""
        return await self._counted("penstock_edge_streams ")

    async def _counted(self, name: str) -> int:
        async with httpx2.AsyncClient() as http:
            page = (await http.get(f"http://{self.up.options.ports.edge_admin}/metrics")).text
        return sum(int(float(line.removeprefix(name))) for line in page.splitlines() if line.startswith(name))


@contextlib.asynccontextmanager
async def tunnel_to(folder: Path, **upstreams: str) -> AsyncGenerator[Tunnel]:
    """The whole chain in front of these upstreams, by route name; the sample server when there is none."""
    routes = tuple(Route.parse(f"{name}={url}") for name, url in upstreams.items())
    async with running(Options(folder=folder, routes=routes, ports=choose_free()), Screen()) as up:
        yield Tunnel(up)
