"""Streaming."""
from __future__ import annotations
import asyncio
import pytest
pytestmark = pytest.mark.anyio

@pytest.fixture(scope="module")
async def side(platform, upstream):
    return await platform.add_side({"echo": upstream.url})

async def test_a_request_passes(platform, side, upstream):
    async with platform.client() as client, asyncio.TaskGroup() as g:
        t = g.create_task(client.get(side.url("/x")))
        v = await upstream.visit()
        print(await v.head())
        await v.answer(b"hello")
        assert (await t).text == "hello"
