"""An MCP session through a tunnel, on the official SDK's client."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import httpx2

from penstock.client.answers import SessionClient
from penstock.client.transport import TunnelTransport
from penstock.errors import ConfigError, PenstockError, missing_libraries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator, Mapping

    from mcp.client import Client

    from penstock.client.access import Access

# A tool may think for minutes between two events; connecting must not take that long.
_TIMEOUT = httpx2.Timeout(30.0, read=300.0)


@contextlib.asynccontextmanager
async def mcp_session(
    url: str,
    access: Access | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    auth: httpx2.Auth | None = None,
    **client: Any,
) -> AsyncGenerator[Client]:
    """A connected `mcp.Client` for the server at `https://<route>.<tunnel-domain>/mcp`.

        async with mcp_session("https://echo.ab12cd34.tunnel.example.com/mcp") as session:
            result = await session.call_tool("hello", {"name": "you"})

    headers, auth: sent to the MCP server (the tunnel does not authenticate there). Other arguments go to `mcp.Client`;
    `mode="legacy"` forces the 2025 era. Raises the PenstockError behind a tunnel's refusal, without the SDK's groups
    around it: TunnelError for what a hop refused, UnavailableError for a call that was cut. Inside the session a hop's
    refusal is the SDK's MCPError with our text, and the session lives on if you catch it there.
    """
    try:
        from mcp.client import Client  # noqa: PLC0415 - an extra; the transport works without it
        from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise ConfigError("mcp_session needs the MCP SDK", hint=missing_libraries("mcp")) from exc

    _check(url)
    http = SessionClient(transport=TunnelTransport(access), headers=dict(headers or {}), auth=auth, timeout=_TIMEOUT)
    with _unwrapped(http):
        async with http, Client(streamable_http_client(url, http_client=http), **client) as session:
            http.is_connected = True
            yield session


def _check(url: str) -> None:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme != "https" or not parsed.host:
        raise ConfigError(
            f"{url!r} is not the URL of an MCP server behind a tunnel",
            hint="one looks like https://echo.ab12cd34.tunnel.example.com/mcp",
        )


@contextlib.contextmanager
def _unwrapped(http: SessionClient) -> Generator[None]:
    try:
        yield
    except PenstockError:
        raise
    except Exception as exc:
        cause = cause_of(exc) or next(filter(None, map(http.explain, leaves(exc))), None)
        if cause is None:
            raise
        raise cause from exc


def cause_of(exc: BaseException, depth: int = 16) -> PenstockError | None:
    """The PenstockError in an exception's group, cause or context, whichever comes first."""
    if isinstance(exc, PenstockError):
        return exc
    if depth == 0:
        return None
    for other in [*members(exc), getattr(exc, "cause", None), exc.__cause__, exc.__context__]:
        if isinstance(other, BaseException) and (found := cause_of(other, depth - 1)) is not None:
            return found
    return None


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group of groups; `exc` itself when it is none."""
    inner = members(exc)
    if not inner:
        yield exc
    for one in inner:
        yield from leaves(one)


def first_of(exc: BaseException) -> BaseException:
    """The first exception in a group of groups, or `exc` itself: what to tell a person about."""
    while inner := members(exc):
        exc = inner[0]
    return exc


def members(exc: BaseException) -> tuple[BaseException, ...]:
    """The exceptions in a group; empty for any other exception."""
    return cast("BaseExceptionGroup[BaseException]", exc).exceptions if isinstance(exc, BaseExceptionGroup) else ()
