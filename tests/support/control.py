"""A control plane on loopback, and what its first users hold. `start_api` and `api` are fixtures: import them by name."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from sqlalchemy import select
from tests.support import ca
from tests.support.store import STORES, Store, make_config

from penstock.control.server import Control
from penstock.control.service.bootstrap import Initial, initialize, open_core
from penstock.control.storage import tables
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator
    from pathlib import Path

    from penstock.control.config import ControlConfig
    from penstock.secret import Secret

__all__ = ["PUBLISHED", "Api", "api", "database", "in_thread", "make_config", "start_api"]

PUBLISHED = {"anthropic-version": "2023-06-01", "anthropic-beta": "mcp-tunnels-2026-06-22"}


@contextmanager
def in_thread(folder: Path, **settings: Any) -> Generator[tuple[str, Initial]]:
    """A control plane on a loop in a thread of its own: for a command under test, which runs another loop."""
    ready: list[Any] = []
    up, down = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        config = make_config(folder, **settings)
        initial = await initialize(config)
        running = Control(config)
        await running.start()
        ready.extend((running.url, initial))
        up.set()
        await down.wait()
        await running.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert up.wait(20)
        yield ready[0], ready[1]
    finally:
        loop.call_soon_threadsafe(down.set)
        thread.join(20)
        loop.close()


@dataclass
class Api:
    """One control plane under test and an HTTP client that brings the key each path needs."""

    config: ControlConfig
    control: Control
    initial: Initial
    http: httpx2.AsyncClient

    def bearing(self, secret: Secret | str, **headers: str) -> dict[str, str]:
        text = secret if isinstance(secret, str) else secret.reveal()
        return {"authorization": f"Bearer {text}", **headers}

    async def tunnel(self, **body: Any) -> dict[str, Any]:
        response = await self.http.post("/v1/tunnels", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def register(self, tunnel_id: str, pem: str | None = None) -> httpx2.Response:
        pem = pem if pem is not None else ca.ca().certificate_pem
        return await self.http.post(f"/v1/tunnels/{tunnel_id}/certificates", json={"ca_certificate_pem": pem})

    async def enrol(self, name: str = "edge-1", token: Secret | None = None, **changes: str) -> httpx2.Response:
        body = {
            "name": name,
            "caller_address": "127.0.0.1:8443",
            "agent_address": "edge.example.com:7844",
            "csr_pem": certs.make_csr(certs.make_ec_key(), "edge"),
            **changes,
        }
        headers = self.bearing(token or self.initial.enrolment_token)
        return await self.http.post("/penstock/v1/edges/enrol", json=body, headers=headers)

    async def audit_records(self) -> list[dict[str, Any]]:
        """Everything in the audit log, oldest first, as it is stored."""
        async with open_core(self.config) as core, core.database.read() as connection:
            query = select(tables.audit.c.body).order_by(tables.audit.c.position)
            return [json.loads(body) for body in (await connection.execute(query)).scalars()]

    async def snapshot(self, credential: str, *, after: int = -1, wait: float = 0, **asked: str) -> httpx2.Response:
        return await self.http.get(
            "/penstock/v1/edge/snapshot",
            params={"after": after, "wait": wait, **asked},
            headers=self.bearing(credential),
            timeout=20,
        )


class _RightKey(httpx2.Auth):
    """The first Tunnels API key for what is published, the first API key for what is ours; unless a test brings its own."""

    def __init__(self, initial: Initial) -> None:
        self._initial = initial

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response]:
        if request.headers.keys().isdisjoint({"authorization", "x-api-key"}):
            is_published = request.url.path.startswith("/v1/")
            key = self._initial.tunnels_key if is_published else self._initial.api_key
            request.headers["authorization"] = f"Bearer {key.reveal()}"
        yield request


@pytest.fixture
def database() -> Store:
    """The store; a module that is true of both databases imports `tests.support.store.database` in its place."""
    return STORES["sqlite"]


@pytest.fixture
async def start_api(tmp_path: Path, database: Store) -> AsyncIterator[Callable[..., Any]]:
    """Starts control planes; all of them are stopped in the end."""
    started: list[Api] = []

    async def start(folder: str = "control", **settings: Any) -> Api:
        if started:  # the second of a test is somebody else's
            config = make_config(tmp_path / folder, **database.empty(), **settings)
            initial = await initialize(config)
        else:
            config, initial = await database.initialized(tmp_path / folder, settings)
        control = Control(config)
        await control.start()
        http = httpx2.AsyncClient(
            base_url=control.url,
            headers=PUBLISHED,
            auth=_RightKey(initial),
            trust_env=False,
            timeout=30,  # a machine that does much else besides
            verify=False,  # reading the system's CAs takes 50 ms, and this is loopback without TLS
        )
        api = Api(config, control, initial, http)
        started.append(api)
        return api

    yield start
    for api in started:
        await api.http.aclose()
        await api.control.stop()


@pytest.fixture
async def api(start_api: Callable[..., Any]) -> Api:
    """A control plane with default settings."""
    started: Api = await start_api()
    return started
