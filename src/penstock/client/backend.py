"""The tunnel as a network backend of httpcore2: pooling, keep-alive and HTTP come from the library, the wire from us."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpcore2

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from penstock.client.streams import TunnelStream, TunnelStreams
    from penstock.net.streams import ByteStream
    from penstock.tls.contexts import TLSContext


class TunnelBackend(httpcore2.AsyncNetworkBackend):
    """Connecting to a host opens a stream to its route; the port is the tunnel's and not looked at."""

    def __init__(self, streams: TunnelStreams) -> None:
        self._streams = streams

    async def connect_tcp(
        self,
        host: str,
        port: int,  # noqa: ARG002 - httpcore2's signature
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore2.AsyncNetworkStream:
        """An unsecured stream; httpcore2 calls `start_tls` on it next, for only https URLs come here."""
        with _mapped(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            async with asyncio.timeout(timeout):
                return _Unsecured(await self._streams.open(host))

    async def sleep(self, seconds: float) -> None:
        """Between httpcore2's own retries."""
        await asyncio.sleep(seconds)


class _Unsecured(httpcore2.AsyncNetworkStream):
    """A stream before inner TLS: it can be secured or closed, and carries not one byte of a request."""

    def __init__(self, stream: TunnelStream) -> None:
        self._stream = stream

    async def start_tls(
        self,
        ssl_context: TLSContext,  # noqa: ARG002 - the tunnel's own CA decides, never the library's default trust
        server_hostname: str | None = None,  # noqa: ARG002 - it is the host that the stream was opened for
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        with _mapped(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            async with asyncio.timeout(timeout):
                return _Secured(self._stream, await self._stream.start_tls())

    async def aclose(self) -> None:
        self._stream.websocket.abort()


class _Secured(httpcore2.AsyncNetworkStream):
    """A stream inside inner TLS."""

    def __init__(self, tunnel: TunnelStream, stream: ByteStream) -> None:
        self._tunnel = tunnel
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _mapped(httpcore2.ReadTimeout, httpcore2.ReadError):
            async with asyncio.timeout(timeout):
                return await self._stream.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _mapped(httpcore2.WriteTimeout, httpcore2.WriteError):
            async with asyncio.timeout(timeout):
                await self._stream.write(buffer)

    async def aclose(self) -> None:
        # In MCP 2026-07-28 closing the stream is the cancellation: it must overtake what is queued.
        self._stream.transport.abort()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # httpcore2 asks an idle connection: readable means that it ended
            return self._stream.is_readable or self._tunnel.is_retiring
        return self._stream.transport.get_extra_info(info)


@contextlib.contextmanager
def _mapped(timed_out: type[Exception], failed: type[Exception]) -> Generator[None]:
    """The library's own exceptions for what asyncio raises; ours pass as they are."""
    try:
        yield
    except TimeoutError as exc:
        raise timed_out(str(exc)) from exc
    except OSError as exc:
        raise failed(str(exc)) from exc
