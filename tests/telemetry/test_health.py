from __future__ import annotations

import asyncio

import pytest

from penstock.config.types import HostPort
from penstock.errors import ConfigError
from penstock.telemetry.health import AdminServer, healthz, readyz
from penstock.telemetry.metrics import metrics_page, new_registry

pytestmark = pytest.mark.anyio


async def ask(address: HostPort, raw: bytes) -> bytes:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(raw)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


async def test_probes_and_scrapers_get_what_they_ask_for() -> None:
    reasons: list[str | None] = ["no link"]
    server = AdminServer(
        HostPort("127.0.0.1", 0),
        {"/healthz": healthz, "/readyz": readyz(lambda: reasons[0]), "/metrics": metrics_page(new_registry())},
    )
    address = await server.start()
    try:
        assert (await ask(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        assert (await ask(address, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"\r\n\r\n")
        assert b"503" in (answer := await ask(address, b"GET /readyz?x=1 HTTP/1.1\r\nHost: x\r\n\r\n"))
        assert b"no link" in answer
        reasons[0] = None
        assert b" 200 " in await ask(address, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"process_resident_memory_bytes" in await ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 404 " in await ask(address, b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 405 " in await ask(address, b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b" 400 " in await ask(address, b"\x16\x03\x01 not http\r\n\r\n")
    finally:
        await server.stop()


async def test_a_busy_port_is_one_clear_error() -> None:
    first = AdminServer(HostPort("127.0.0.1", 0), {})
    address = await first.start()
    try:
        with pytest.raises(ConfigError, match="admin port") as caught:
            await AdminServer(address, {}).start()
        assert caught.value.hint
    finally:
        await first.stop()
