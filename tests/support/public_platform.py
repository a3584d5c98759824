"""A platform that knows what is published of the public product and nothing of ours: control, with the rest taken away."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PASSED = ("authorization", "content-type", "anthropic-beta", "anthropic-version")


@dataclass
class PublicPlatform:
    """Stands before `control`, in the launch edition. `asked` is every request's line."""

    control: str
    url: str = ""
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked.append(f"{method} {path}")
        status, content = await self._answer(method, path, {name: headers[name] for name in _PASSED if name in headers}, body)
        writer.write(b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (status, len(content), content))
        writer.close()

    async def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if not path.startswith(("/v1/organizations/tunnels/", "/v1/oauth/token")):
            return 404, b"<html>Not Found</html>"
        async with httpx2.AsyncClient(base_url=self.control, trust_env=False) as control:
            response = await control.request(method, path, headers=headers, content=body)
        if path.endswith("/reveal_token"):
            told = response.json()
            token = json.loads(base64.b64decode(told["tunnel_token"]))
            told["tunnel_token"] = base64.b64encode(json.dumps({name: token[name] for name in "ats"}).encode()).decode()
            return response.status_code, json.dumps(told).encode()
        return response.status_code, response.content


@asynccontextmanager
async def public_platform(control: str) -> AsyncIterator[PublicPlatform]:
    """Listening."""
    platform = PublicPlatform(control)
    server = await asyncio.start_server(platform.serve, "127.0.0.1", 0)
    async with server:
        platform.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield platform
