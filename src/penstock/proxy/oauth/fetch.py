"""One JSON document by GET, through a pool of the proxy's own: checked addresses, strict HTTP, no redirects, little memory."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from penstock.errors import UnavailableError
from penstock.proxy.routes import Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.errors import TunnelError
    from penstock.proxy.heads import Header, ResponseHead
    from penstock.proxy.oauth_settings import Url
    from penstock.proxy.pool import Pool
    from penstock.proxy.upstream import UpstreamConnection

_SECONDS: Final = 10.0  # a caller waits for it
_BYTES_MOST: Final = 256 * 1024  # a key set of fifty RSA keys with their certificates is half of that


async def fetch_json(pool: Pool, url: Url) -> object:
    """The document at `url`. UnavailableError, with what to tell the log, when it cannot be had."""
    answer = _Answer(url)
    cancel = pool.request(Route("keys", url.host, url.port, url.is_tls, None), answer)
    try:
        async with asyncio.timeout(_SECONDS):
            body = await answer.body
        return json.loads(body)
    except TimeoutError:
        raise _unavailable(url, "no answer in time") from None
    except (ValueError, RecursionError):
        raise _unavailable(url, "the answer is not JSON") from None
    finally:
        if cancel is not None:
            cancel()
        answer.leave()


def _unavailable(url: Url, reason: str) -> UnavailableError:
    return UnavailableError("a document of the issuer cannot be had", detail=f"{url.host}:{url.port}{url.path}: {reason}")


class _Answer:
    """Both what waits for a connection and what is answered on it (`pool.Waiting`, `sides.Answered`)."""

    def __init__(self, url: Url) -> None:
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._url = url
        self._connection: UpstreamConnection | None = None
        self._got = bytearray()

    def leave(self) -> None:
        """Nobody waits any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def connected(self, connection: UpstreamConnection) -> None:
        if self.body.done():
            connection.abort()
            return
        self._connection = connection
        url = self._url
        host = f"[{url.host}]" if ":" in url.host else url.host
        authority = host if url.port == (443 if url.is_tls else 80) else f"{host}:{url.port}"
        request = f"GET {url.path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\n\r\n"
        connection.start(self, request.encode("ascii"), is_head_request=False)

    def not_connected(self, error: TunnelError) -> None:
        self._fail(error.detail or error.public)

    def informed(self, head: ResponseHead) -> None:
        pass

    def response_started(self, head: ResponseHead) -> None:
        if head.status != 200:
            self._fail(f"status {head.status}")
            self.leave()

    def response_data(self, data: bytes) -> None:
        self._got += data
        if len(self._got) > _BYTES_MOST:
            self._fail(f"more than {_BYTES_MOST} bytes")
            self.leave()

    def response_ended(self, trailers: Sequence[Header]) -> bool:  # noqa: ARG002 - as `sides.Answered`
        self._connection = None
        if not self.body.done():
            self.body.set_result(bytes(self._got))
        return True

    def flush(self) -> None:
        pass

    def upstream_failed(self, reason: str, *, is_stale: bool) -> None:  # noqa: ARG002 - as above
        self._connection = None
        self._fail(reason)

    def pause_request(self) -> None:
        pass

    def resume_request(self) -> None:
        pass

    def _fail(self, reason: str) -> None:
        if not self.body.done():
            self.body.set_exception(_unavailable(self._url, reason))
