"""The HTTP client under an MCP session: what is not the MCP server's answer is told as what it is.

The SDK reads any failed request as the server's own and keeps neither its headers nor its text. So a refusal by one of the
tunnel's hops reaches a running session as a JSON-RPC error that carries our text, and a note by which the session's end knows
it again. The note is a random value that never leaves this process: a server cannot speak for the tunnel.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, Final, cast

import httpx2
from httpx2 import USE_CLIENT_DEFAULT

from penstock.client.refusals import HEADER, refusal_from
from penstock.client.transport import TunnelRefusedError
from penstock.errors import PenstockError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TEXT_MOST: Final = 2048  # bytes; the tunnel's texts are one sentence
_TOLD_MOST: Final = 64  # refusals remembered, for a session that goes on
_NOTE: Final = "penstock"
_NOT_FOUND: Final = 404
_MISDIRECTED: Final = 421  # RFC 9110 15.5.20: what SDK servers answer to a Host they do not know
_INTERNAL: Final = -32603  # JSON-RPC 2.0, 5.1
_CLOSED: Final = -32000  # the SDK's "connection closed", which it also makes of a body that broke off


class SessionClient(httpx2.AsyncClient):
    """An `httpx2.AsyncClient` for one MCP session. is_connected: whether the session is past its handshake."""

    is_connected = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._told: dict[str, PenstockError] = {}
        self._cut: Exception | None = None
        self._not_found = ""  # where the latest answer was a 404 of the server's own

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: Any = USE_CLIENT_DEFAULT,
        follow_redirects: Any = USE_CLIENT_DEFAULT,
    ) -> httpx2.Response:
        """As httpx2's own; here, for an `auth` has then seen the 401 that is its business."""
        self._cut = None
        response = await super().send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        call = _call_id(request) if HEADER in response.headers or response.status_code == _MISDIRECTED else None
        if call is None:
            self._not_found = _place(request) if response.status_code == _NOT_FOUND else ""
            response.stream = _Watched(response.stream, self)
            return response
        try:
            error = await _refusal(response)
        finally:
            await response.aclose()
        if not self.is_connected:  # the SDK would take it for a verdict on the protocol's era, and ask again
            raise TunnelRefusedError(error, request)
        return self._answer(call, error, request)

    def explain(self, exc: BaseException) -> PenstockError | None:
        """What is behind an exception of the SDK's or of this client's; None when it is not the tunnel."""
        if isinstance(exc, httpx2.TimeoutException):
            return UnavailableError(
                "the MCP server did not answer in time",
                detail=type(exc).__name__,
                hint="the call may have run, or run still; look at the MCP server",
            )
        if isinstance(exc, httpx2.NetworkError | httpx2.RemoteProtocolError) and not isinstance(exc, httpx2.ConnectError):
            return _cut(exc)
        if self._not_found and not self.is_connected:  # later it is a session that the server has forgotten
            return PenstockError(
                f"the MCP server answered 404 at {self._not_found}",
                hint="is the path right? most servers serve /mcp"
                if not self._not_found.endswith("/mcp")
                else "is what runs there an MCP server with Streamable HTTP, and is the path right?",
            )
        data, code = getattr(exc, "data", None), getattr(exc, "code", None)  # of mcp's MCPError, not imported for that
        if isinstance(data, dict) and _NOTE in data:
            return self._told.get(str(cast("dict[str, Any]", data)[_NOTE]))
        return _cut(self._cut) if self._cut is not None and code == _CLOSED else None

    def broke_off(self, exc: Exception) -> None:
        """A response's body ended before its end."""
        self._cut = exc

    def _answer(self, call: Any, error: PenstockError, request: httpx2.Request) -> httpx2.Response:
        note = secrets.token_hex(8)
        self._told[note] = error
        if len(self._told) > _TOLD_MOST:
            del self._told[next(iter(self._told))]
        message = f"{error.public} ({error.hint})" if error.hint else error.public
        said = {"code": _INTERNAL, "message": message, "data": {_NOTE: note}}
        return httpx2.Response(200, json={"jsonrpc": "2.0", "id": call, "error": said}, request=request)


class _Watched(httpx2.AsyncByteStream):
    """A body whose breaking off is remembered: the SDK swallows it in an event stream."""

    def __init__(self, inner: Any, client: SessionClient) -> None:
        self._inner = inner
        self._client = client

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._inner:
                yield part
        except httpx2.TransportError as exc:
            self._client.broke_off(exc)
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()


def _place(request: httpx2.Request) -> str:
    """Without what a URL may hold besides: a password, a query."""
    return f"{request.url.scheme}://{request.url.host}{request.url.path}"


def _call_id(request: httpx2.Request) -> Any:
    """The id of the JSON-RPC request that this is; None for anything else, whose failure nobody waits for."""
    if request.method != "POST":
        return None
    try:
        message: Any = json.loads(request.content)
    except (ValueError, httpx2.RequestNotRead):
        return None
    return cast("dict[str, Any]", message).get("id") if isinstance(message, dict) and "method" in message else None


async def _refusal(response: httpx2.Response) -> PenstockError:
    if HEADER not in response.headers:
        return PenstockError(
            "the MCP server answered 421: it does not know the host name it was asked for",
            hint="set `host_header: upstream` on the route in the proxy's configuration, or let the server accept that name",
        )
    text = b""
    async for part in response.aiter_bytes():
        text += part
        if len(text) >= _TEXT_MOST:
            break
    retry_after = response.headers.get("retry-after", "")
    return refusal_from("the proxy", response.headers[HEADER], response.status_code, text[:_TEXT_MOST], retry_after)


def _cut(exc: Exception) -> UnavailableError:
    return UnavailableError(
        "the tunnel was cut during the call; it may have run",
        detail=f"{type(exc).__name__}: {exc}",
        hint="look whether it did before you call again; the logs of edge, agent and proxy say what broke off",
    )
