"""A loopback port whose requests travel through a tunnel, for programs that cannot use our client library."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2

from penstock.client import TunnelTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.client.access import Access

_HOPS = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade"}


class Bridge:
    """An ASGI application in front of one route, as transparent as ASGI allows.

    Host is replaced where it names the bridge itself; any other goes on as it is, for its fate is part of what is tested.
    """

    def __init__(self, access: Access, url: str) -> None:
        self._transport = TunnelTransport(access)
        self._url = httpx2.URL(url)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        own = b"%s:%d" % (scope["server"][0].encode(), scope["server"][1])
        headers = [(name, value) for name, value in scope["headers"] if name not in _HOPS and (name, value) != (b"host", own)]
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        gone = asyncio.Event()
        request = httpx2.Request(
            scope["method"],
            self._url.copy_with(raw_path=target),
            headers=headers,
            content=_body(receive, gone) if scope["method"] in {"POST", "PUT", "PATCH"} else None,
        )
        async with asyncio.TaskGroup() as group:
            passing = group.create_task(self._pass(request, send))
            watching = group.create_task(_watch(receive, gone, scope["method"]))
            await asyncio.wait({passing, watching}, return_when=asyncio.FIRST_COMPLETED)
            passing.cancel()  # the client went away, or all is passed
            watching.cancel()

    async def _pass(self, request: httpx2.Request, send: Any) -> None:
        response = await self._transport.handle_async_request(request)
        headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _HOPS]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        try:
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


async def _body(receive: Any, whole: asyncio.Event) -> AsyncGenerator[bytes]:
    while True:
        message = await receive()
        yield message.get("body", b"")
        if not message.get("more_body"):
            whole.set()
            return


async def _watch(receive: Any, whole: asyncio.Event, method: str) -> None:
    """Until the client has gone; what it sends is read by the request alone, and only then by this."""
    if method in {"POST", "PUT", "PATCH"}:
        await whole.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
