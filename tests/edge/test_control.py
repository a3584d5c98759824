"""What answers at `control_url` may not be control."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import structlog
from tests.support.following import Control, fresh
from tests.support.site import until

from penstock.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.site import Site

pytestmark = pytest.mark.anyio

PAGE = b"<!doctype html><title>Welcome</title>"
ANSWERS = {
    "a page": (200, "Content-Type: text/html; charset=utf-8\r\n", "status 200, text/html"),
    "no such page": (404, "Content-Type: text/html\r\n", "status 404, text/html"),
    "asks to sign in": (401, "Content-Type: text/html\r\n", "status 401, text/html"),
    "leads elsewhere": (308, "Location: https://control.example.com/\r\n", "https://control.example.com/"),
}


@contextlib.asynccontextmanager
async def another(status: int, fields: str) -> AsyncIterator[str]:
    """Some web server, by its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(PAGE)}\r\nConnection: close\r\n{fields}\r\n"
            writer.write(head.encode() + PAGE)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_wrong_control_url_is_said_with_what_answers_there_and_what_to_set(site: Site, answer: str) -> None:
    status, fields, detail = ANSWERS[answer]
    folder, token = site.folder / "fresh", site.folder / "enrolment-token"
    token.write_text("pst-enrol-test\n")
    async with Control(site).running() as control, another(status, fields) as url, asyncio.timeout(20):
        with structlog.testing.capture_logs() as logs, pytest.raises(UnavailableError) as raised:
            await fresh(control, folder, control_url=url, enrolment_token_file=token, start_timeout=0.3).start()
        assert "control_url" in (raised.value.hint or "")
        (said,) = [line for line in logs if line["event"] == "not enrolled yet"]
        assert said["reason"] == f"what answers at {url} is not a Penstock control plane"
        assert detail in said["detail"]

        edge = fresh(control, folder, enrolment_token_file=token)
        await edge.start()
        await edge.stop()
        moved = fresh(control, folder, control_url=url)
        with structlog.testing.capture_logs() as logs:
            await moved.start()
            await until(lambda: any(line["event"] == "feed interrupted" for line in logs))
        said = next(line for line in logs if line["event"] == "feed interrupted")
        assert (said["reason"], "control_url" in said["hint"]) == (
            f"what answers at {url} is not a Penstock control plane",
            True,
        )
        assert detail in said["detail"]
        assert moved.why_not_ready() is None  # and goes on with what it has: its credential was refused by nobody
        await moved.stop()
