"""MCP servers as people write them, on the SDKs, with what a test needs to hold them still and to see what reached them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvicorn
from fastmcp import FastMCP
from mcp import types
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from penstock.config.types import HostPort

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from mcp.server.session import ServerSession

WITHIN = 5.0  # seconds any state may take to come about; in practice milliseconds


class Approval(BaseModel):
    """What the `ask` tool wants of the person at the client."""

    sure: bool


@dataclass
class Stage:
    """What a test and the tools of its server wait on."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    """`slow` goes on after its first progress when this is set."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """`slow` came to its end."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """`slow` was cancelled on the way."""
    session: ServerSession | None = None
    """The server's side of the session that called last."""


def sdk_server(stage: Stage) -> MCPServer:
    """A server on the official SDK."""
    server = MCPServer("sdk", log_level="WARNING")

    @server.tool()
    async def hello(name: str, ctx: Context) -> str:
        stage.session = ctx.session
        return f"Hello, {name}!"

    @server.tool()
    async def slow(steps: int, ctx: Context) -> str:
        """Tell of `steps` steps; wait for the test after the first."""
        try:
            for step in range(1, steps + 1):
                await ctx.report_progress(step, steps, f"step {step}")
                await stage.release.wait()
        except asyncio.CancelledError:
            stage.cancelled.set()
            raise
        stage.finished.set()
        return "done"

    @server.tool()
    async def announce(text: str, ctx: Context) -> str:
        """Send a notification on the call's own stream, then wait for the test."""
        notification = types.LoggingMessageNotification(params=types.LoggingMessageNotificationParams(level="info", data=text))
        await ctx.session.send_notification(notification, related_request_id=ctx.request_id)
        await stage.release.wait()
        return "announced"

    @server.tool()
    async def ask(ctx: Context) -> str:
        """Ask the client something in the middle of the call (2025 era: a request of the server's own)."""
        answer = await ctx.session.elicit_form("Sure?", Approval.model_json_schema(), related_request_id=ctx.request_id)
        return f"{answer.action}: {answer.content}"

    @server.tool()
    async def change(ctx: Context) -> str:
        """Tell whoever subscribed that the tools changed."""
        await ctx.notify_tools_changed()
        return "changed"

    return server


def fastmcp_server() -> FastMCP:
    """A server on FastMCP."""
    server: FastMCP = FastMCP("fast")

    @server.tool
    def hello(name: str) -> str:
        return f"Hello, {name}, from FastMCP!"

    return server


@dataclass
class Request:
    """One request as it reached the server."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    status: int = 0
    content_type: str = ""
    body: bytearray = field(default_factory=bytearray)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """The response's head has left."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The peer went before the response was complete."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """The server is done with it."""

    def header(self, name: str) -> str | None:
        """The value of a header, or None."""
        return next((value.decode() for key, value in self.headers if key == name.lower().encode()), None)


@dataclass
class Recorder:
    """ASGI middleware that keeps what it sees."""

    app: Callable[..., Any]
    requests: list[Request] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope["method"], scope["path"], scope["query_string"], list(scope["headers"]))
        self.requests.append(request)
        self._more.set()
        complete = False

        async def watched_receive() -> Any:
            message = await receive()
            if message["type"] == "http.request":
                request.body += message.get("body", b"")
            elif not complete:
                request.gone.set()
            return message

        async def watched_send(message: Any) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                headers = {name.lower(): value for name, value in message["headers"]}
                request.status, request.content_type = message["status"], headers.get(b"content-type", b"").decode()
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)
            request.answered.set()

        try:
            await self.app(scope, watched_receive, watched_send)
        finally:
            request.ended.set()

    def of(self, method: str) -> list[Request]:
        """The requests with this method."""
        return [request for request in self.requests if request.method == method]

    def calls(self, mcp_method: str) -> list[Request]:
        """The POSTs of one JSON-RPC method."""
        return [request for request in self.of("POST") if f'"{mcp_method}"'.encode() in request.body]

    async def first(self, method: str) -> Request:
        """The first request with this method, waited for, answered."""
        async with asyncio.timeout(WITHIN):
            while not (found := self.of(method)):
                self._more.clear()
                await self._more.wait()
            await found[0].answered.wait()
        return found[0]


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # pytest has its own


@contextlib.asynccontextmanager
async def serving(app: Any, host: str = "127.0.0.1") -> AsyncGenerator[str]:
    """`app` on a free port of loopback, as `http://127.0.0.1:port`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1, ws="none")
        server = _Server(config)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.serve(sockets=[listener]))
            try:
                yield f"http://{HostPort(host, listener.getsockname()[1])}"  # it listens already: an early caller waits
            finally:
                server.should_exit = True
                await asyncio.wait({task})  # a group that fails would cancel it, and its listener would outlive the loop
