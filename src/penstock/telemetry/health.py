"""The admin port of a role: `/healthz` (the process lives), `/readyz` (it can do its work), `/metrics`.

Private by default: roles bind it to loopback. One request a connection, which is all that probes and scrapers need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

import h11

from penstock.config.address import unbindable
from penstock.config.types import HostPort
from penstock.errors import ConfigError

_HEAD_LIMIT: Final = 8192  # probes send a few hundred bytes
_REQUEST_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the admin port."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Render = Callable[[], Page]


def healthz() -> Page:
    """The process lives: it could answer."""
    return Page(200, b"ok\n")


def readyz(why_not_ready: Callable[[], str | None]) -> Render:
    """Ready when `why_not_ready` has nothing to say; otherwise 503 with the reason."""

    def render() -> Page:
        reason = why_not_ready()
        return Page(200, b"ready\n") if reason is None else Page(503, f"not ready: {reason}\n".encode())

    return render


@dataclass(slots=True)
class AdminServer:
    """Serves `pages` (path to renderer) on `address`, which `setting` names."""

    address: HostPort
    pages: Mapping[str, Render]
    setting: str = "admin_addr"
    _server: asyncio.Server | None = field(default=None, init=False)

    async def start(self) -> HostPort:
        """Listening when it returns; the bound address (port 0 picks one)."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _AdminConnection(self.pages), self.address.host or None, self.address.port
            )
        except OSError as exc:
            why = unbindable(f"{self.address} for the admin port", exc)
            raise ConfigError(f"{self.setting}: {why.public}", detail=why.detail, hint=why.hint) from exc
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = HostPort(host, port)
        return self.address

    async def stop(self) -> None:
        """Stop listening; answers in flight are tiny and are let go."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None


class _AdminConnection(asyncio.Protocol):
    def __init__(self, pages: Mapping[str, Render]) -> None:
        self._pages = pages
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from asyncio's
        self._deadline = asyncio.get_running_loop().call_later(_REQUEST_SECONDS, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
        except h11.RemoteProtocolError:
            self._answer(Page(400, b"bad request\n"))
            return
        if isinstance(event, h11.Request):
            self._answer(self._page(event), is_head=event.method == b"HEAD")

    def _page(self, request: h11.Request) -> Page:
        if request.method not in {b"GET", b"HEAD"}:
            return Page(405, b"only GET\n")
        render = self._pages.get(request.target.decode("ascii", "replace").partition("?")[0])
        return render() if render is not None else Page(404, b"not found\n")

    def _answer(self, page: Page, *, is_head: bool = False) -> None:
        if self._transport is None:
            return
        head = (
            f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}\r\nContent-Type: {page.content_type}\r\n"
            f"Content-Length: {len(page.body)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + (b"" if is_head else page.body))
        self._transport.close()
