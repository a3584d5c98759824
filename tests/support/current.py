"""A control plane that has nothing new to say, and says so whenever an edge asks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from penstock.schema.edges import PresenceAnswer, fresh_message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass
class Current:
    """`holders`: which edges hold which tunnel, as reports are answered."""

    url: str = ""
    reports: int = 0
    holders: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


@contextlib.asynccontextmanager
async def current(feed_key: Ed25519PrivateKey) -> AsyncGenerator[Current]:
    """Whatever an edge holds is the newest there is; a long poll is answered by nothing."""
    told = Current()
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                _, _, length = head.partition("content-length: ")
                await reader.readexactly(int(length.partition("\r\n")[0] or 0))
                writer.write(await _answer(told, feed_key, head.split(" ")[1]))
        writer.close()
        serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    told.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield told
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)


async def _answer(told: Current, feed_key: Ed25519PrivateKey, target: str) -> bytes:
    url = urlsplit(target)
    asked = {name: values[0] for name, values in parse_qs(url.query).items()}
    if "nonce" not in asked:
        told.reports += 1
        body = PresenceAnswer(is_known=True, holders=told.holders).model_dump_json().encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    if float(asked["wait"]):
        await asyncio.Event().wait()
    fresh = base64.b64encode(feed_key.sign(fresh_message(int(asked["after"]), asked["nonce"])))
    return b"HTTP/1.1 204 No Content\r\nPenstock-Fresh: %b\r\n\r\n" % fresh
