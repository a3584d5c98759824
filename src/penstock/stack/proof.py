"""The proof call: a real MCP client, through edge, agent and proxy, to the server behind the route."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.client.mcp import first_of, mcp_session
from penstock.errors import PenstockError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from penstock.client.access import Access

    Ask = Callable[[str, Access], Awaitable["Proof"]]
    Show = Callable[[str, str, "Proof"], None]

_PROOF_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Proof:
    """What came back, and how long it took."""

    question: str
    answer: str
    tools: tuple[str, ...]
    connected_ms: float
    """From nothing to a negotiated MCP session."""
    called_ms: float
    """The one call, on the session."""


async def call_sample(url: str, access: Access) -> Proof:
    """Call `hello` of the sample server."""
    started = time.perf_counter()
    async with mcp_session(url, access, read_timeout_seconds=_PROOF_SECONDS) as session:
        connected = time.perf_counter()
        result = await session.call_tool("hello", {"name": "Penstock"})
        called = time.perf_counter()
        text = " ".join(part.text for part in result.content if part.type == "text")
        return Proof('hello(name="Penstock")', text, ("hello",), (connected - started) * 1e3, (called - connected) * 1e3)


async def list_tools(url: str, access: Access) -> Proof:
    """Ask a server we know nothing of for its tools; none is called, for a tool may do anything."""
    started = time.perf_counter()
    async with mcp_session(url, access, read_timeout_seconds=_PROOF_SECONDS) as session:
        connected = time.perf_counter()
        result = await session.list_tools()
        called = time.perf_counter()
        names = tuple(tool.name for tool in result.tools)
        answer = f"{len(names)} tool{'' if len(names) == 1 else 's'}" + (f": {', '.join(names[:8])}" if names else "")
        return Proof("tools/list", answer, names, (connected - started) * 1e3, (called - connected) * 1e3)


async def prove(urls: Mapping[str, str], access: Access, ask: Ask, show: Show) -> None:
    """One real call a route, each shown. Raises PenstockError for the first that fails."""
    for name, url in urls.items():
        try:
            result = await ask(url, access)
        except PenstockError:
            raise
        except Exception as exc:  # a stranger's server makes the SDK raise anything, groups too
            raise UnavailableError(
                f"the call through {name} failed",
                detail=f"{type(first_of(exc)).__name__}: {first_of(exc)}",
                hint="is what runs there an MCP server with Streamable HTTP, and is the path right?",
            ) from exc
        show(name, url, result)
