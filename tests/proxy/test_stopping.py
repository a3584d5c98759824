"""Stopping the whole proxy: what is standing ends at once, what is in flight has its time, the rest is cut."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.proxy.rig import PATIENCE, Link, get, post
from tests.proxy.site import site

from penstock.proxy.server import time_for_calls

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(("shutdown_timeout", "seconds"), [(30.0, 29.0), (2.0, 1.0), (1.0, 0.5), (0.0, 0.0)])
def test_calls_have_the_shutdown_time_less_a_second(shutdown_timeout: float, seconds: float) -> None:
    assert time_for_calls(shutdown_timeout) == seconds


async def test_a_standing_stream_does_not_hold_a_stop_up(tmp_path: Path) -> None:
    async def standing(link: Link) -> None:
        await link.request()
        await link.send(EVENTS + b"9\r\ndata: 1\n\n\r\n")
        await link.read()

    async with site(tmp_path, standing, shutdown_timeout="1h") as s, s.caller() as get_stream, s.caller() as subscription:
        await get_stream.send(get("/mcp"))
        await subscription.send(post(b"{}", headers="Mcp-Method: subscriptions/listen\r\n"))
        await s.until(lambda: len(s.upstream.links) == 2)
        await asyncio.wait_for(s.proxy.stop(), PATIENCE)
        for stream in (get_stream, subscription):
            assert (await stream.response()).body in {b"data: 1\n\n", b""}
            assert await stream.is_ended()
        assert {line["outcome"] for line in s.events("request ended")} == {"drained"}
        assert not s.events("streams cut")


async def test_it_is_not_ready_while_it_stops(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(link: Link) -> None:
        await link.request()
        await release.wait()
        await link.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with site(tmp_path, slow) as s, s.caller() as stream:
        await stream.send(get())
        await asyncio.wait_for(s.upstream.arrived.wait(), PATIENCE)
        assert s.proxy.why_not_ready() is None
        async with asyncio.TaskGroup() as group:
            group.create_task(s.proxy.stop())
            await s.until(lambda: s.proxy.why_not_ready() == "stopping")
            release.set()
            assert (await stream.response()).status == 204
        assert s.proxy.why_not_ready() == "not listening"


async def test_a_limit_of_open_files_is_a_limit_of_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.proxy.server.raise_descriptor_limit", lambda _: 66)
    async with site(tmp_path) as s, s.caller() as stream:
        (line,) = s.events("streams limited by open files")
        assert (line["streams"], line["files"]) == (1, 66)
        assert (await stream.fetch(get())).status == 200
        with pytest.raises(AssertionError, match="429"):
            async with s.caller():
                pass
