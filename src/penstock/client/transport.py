"""An httpx2 transport whose requests travel through a tunnel."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Self, cast

import httpcore2
import httpx2

from penstock.client.access import Access, find_access
from penstock.client.backend import TunnelBackend
from penstock.client.streams import TunnelStreams
from penstock.errors import ConfigError, PenstockError
from penstock.net.tasks import Tasks
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator
    from types import TracebackType

    from penstock.secret import Secret

_END_SECONDS: Final = 0.025


class TunnelRefusedError(httpx2.ConnectError):
    """The tunnel did not carry the request; `cause` says which rule, hop or credential, and what to do."""

    def __init__(self, cause: PenstockError, request: httpx2.Request | None = None) -> None:
        hint = f" ({cause.hint})" if cause.hint else ""
        super().__init__(f"{cause.public}{hint}", request=request)
        self.cause = cause


class TunnelTransport(httpx2.AsyncBaseTransport):
    """Carries `https://<route>.<tunnel-domain>/…` to the MCP server behind the route.

        async with httpx2.AsyncClient(transport=TunnelTransport()) as client:
            answer = await client.get("https://echo.ab12cd34.tunnel.example.com/health")

    Without arguments the platform is found by `penstock.client.access`. All streams of one transport stay on one
    replica while it lives, so that a stateful server behind several stacks keeps its sessions. Raises TunnelRefusedError
    for what the tunnel refused, and httpx2's own errors for the rest.
    """

    def __init__(
        self,
        access: Access | None = None,
        *,
        api_url: str | None = None,
        api_key: Secret | str | None = None,
        limits: httpx2.Limits | None = None,
    ) -> None:
        limits = limits or httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60.0)
        self._streams = TunnelStreams(access or find_access(api_url, api_key))
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=contexts.unused_client(),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=True,
            http2=False,
            network_backend=TunnelBackend(self._streams),
        )
        self._tasks = Tasks()
        self._streams.on_retired = self._let_go

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every stream and forget the platform."""
        await self._tasks.aclose()
        await self._pool.aclose()
        await self._streams.aclose()

    def _let_go(self) -> None:
        self._tasks.spawn(self._close_retired(), "close retired streams")

    async def _close_retired(self) -> None:
        """Those that carry no call. The pool closes the others itself, as their calls end."""
        for connection in self._pool.connections:
            if connection.is_idle() and connection.has_expired():
                await connection.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request; the response's body is streamed."""
        if request.url.scheme != "https":
            raise httpx2.UnsupportedProtocol(
                f"a tunnel carries https URLs only, not {request.url.scheme}: use https://{request.url.host}", request=request
            )
        if request.url.port not in {None, 443}:
            refusal = ConfigError(
                f"{request.url.host}:{request.url.port}: a tunnel has no ports",
                hint="leave the port out; the route says which server",
            )
            raise TunnelRefusedError(refusal, request)
        assert isinstance(request.stream, httpx2.AsyncByteStream)  # noqa: S101 - an AsyncClient's requests are asynchronous
        inner = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _mapped(request):
            response = await self._pool.handle_async_request(inner)
        return httpx2.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response, request),
            extensions=cast("dict[str, Any]", response.extensions),
        )


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: httpcore2.Response, request: httpx2.Request) -> None:
        self._response = response
        self._request = request
        self._parts = response.aiter_stream()
        self._is_waiting = False  # somebody reads just now, maybe another task

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _mapped(self._request):
            while True:
                self._is_waiting = True
                try:
                    part = await anext(self._parts)
                except StopAsyncIteration:
                    return
                finally:
                    self._is_waiting = False
                yield part

    async def aclose(self) -> None:
        with _mapped(self._request):
            await self._read_end()
            await self._response.aclose()

    async def _read_end(self) -> None:
        """MCP's SDK closes an event stream at the answer, before it has read the body's end that comes right behind it.

        A connection closed there is lost to the pool, and the next call pays for a stream of its own. An end that is not
        there almost at once is not waited for: closing is how a call is cancelled.
        """
        if self._is_waiting:
            return
        with contextlib.suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
            async with asyncio.timeout(_END_SECONDS):
                async for _ in self._parts:
                    return  # more than an end: it is being cancelled


@contextlib.contextmanager
def _mapped(request: httpx2.Request) -> Generator[None]:
    """httpcore2's exceptions have the names of httpx2's."""
    try:
        yield
    except PenstockError as exc:
        raise TunnelRefusedError(exc, request) from exc
    except Exception as exc:
        known = _same_name(exc)
        if known is None:
            raise
        raise known(str(exc), request=request) from exc


def _same_name(exc: Exception) -> type[httpx2.TransportError] | None:
    for kind in type(exc).__mro__:
        if kind.__module__.startswith("httpcore2"):
            found = getattr(httpx2, kind.__name__, None)
            if isinstance(found, type) and issubclass(found, httpx2.TransportError):
                return found
    return None
