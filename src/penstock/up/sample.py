"""The sample MCP server: one tool, `hello(name)`, on the official `mcp` SDK, of either major version.

Needs nothing of Penstock, so the file also runs alone: `python sample.py --port 9000`.
"""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from starlette.applications import Starlette


def hello(name: str) -> str:
    """Greet someone by name."""
    return f"Hello, {name}! This answer came through the tunnel."


def make_app(host: str = "127.0.0.1") -> Starlette:
    """The server as an ASGI application, its endpoint at `/mcp`. On loopback the SDK answers only to loopback's own names."""
    server, listening = _server(host)
    server.tool()(hello)
    return server.streamable_http_app(**listening)


def _server(host: str) -> tuple[Any, dict[str, str]]:
    """The SDK's server, and what its application is told."""
    try:
        make = importlib.import_module("mcp.server.mcpserver").MCPServer  # mcp 2
    except ModuleNotFoundError:
        make = importlib.import_module("mcp.server.fastmcp").FastMCP  # mcp 1: the same class under its older name
        return make("penstock-sample", log_level="WARNING", host=host), {}
    return make("penstock-sample", log_level="WARNING"), {"host": host}


def make_config(host: str, port: int) -> uvicorn.Config:
    """Uvicorn's settings for `make_app`, quiet."""
    return uvicorn.Config(
        make_app(host), host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A sample MCP server with one tool, hello(name).")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    arguments = parser.parse_args()
    uvicorn.Server(make_config(arguments.host, arguments.port)).run()
