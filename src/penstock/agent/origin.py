"""The agent's local side: each stream is one connection to the proxy, the upgrade replayed with its Host, then bytes."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from penstock.agent.target import Target
from penstock.config.address import is_loopback
from penstock.errors import PenstockError, TunnelErrorCode, UnavailableError
from penstock.net import relay
from penstock.net.dial import dial_tcp
from penstock.net.transports import Parked, cut
from penstock.net.upgrade import UpgradeResponse, request_upgrade
from penstock.protocol import metadata
from penstock.protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from penstock.agent.config import AgentLimits
    from penstock.agent.metrics import AgentMetrics
    from penstock.net.link import LinkStream
    from penstock.net.link.stream import Headers
    from penstock.net.relay import RelayResult
    from penstock.net.tasks import Tasks

NO_INGRESS: Final = (
    "No ingress rules were defined in provided config (if any) nor from the cli, "
    "cloudflared will return 503 for all incoming HTTP requests"
)
"""The published text, which monitoring looks for."""

# What this hop says itself; everything else is the caller's and passes, Host above all.
_DROPPED: Final = frozenset(
    {
        b"connection",
        b"upgrade",
        b"host",
        b"sec-websocket-version",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"content-length",
    }
)


class Origin:
    """The proxy beside the agent. `url` is empty where there is none."""

    def __init__(
        self, url: str, *, limits: AgentLimits, metrics: AgentMetrics, tasks: Tasks, log: FilteringBoundLogger
    ) -> None:
        parts = urlsplit(url)
        self._place = (parts.hostname, parts.port or 80) if parts.hostname else None
        self._limits = limits
        self._metrics = metrics
        self._tasks = tasks
        self._log = log
        self._live: set[LinkStream] = set()
        if self._place is None:
            log.warning(NO_INGRESS)  # once: callers see it as often as they ask

    async def watch(self) -> None:
        """Say when nothing listens on the local target, and when something does again; for ever, or until there is none."""
        if self._place is not None:
            await Target(*self._place, self._log).watch()

    @property
    def live(self) -> int:
        """Streams being relayed."""
        return len(self._live)

    async def has_left(self) -> bool:
        """Whether nobody listens any more where the proxy was, on this machine's loopback: of another host nothing is known.

        It is given a second, which is long there. What is no refusal, as where no file is left to ask with, tells nothing.
        """
        if self._place is None or not is_loopback(self._place[0]):
            return False
        try:
            transport = await dial_tcp(*self._place, timeout=1.0)
        except UnavailableError as exc:
            return _is_refusal(exc.__cause__)
        cut(transport)
        return False

    def serve(self, stream: LinkStream) -> None:
        """Answer a request an edge opened."""
        kind = dict(stream.headers).get(metadata.UPGRADE)
        if kind != metadata.WEBSOCKET or metadata.TCP_SOURCE in dict(stream.headers):
            # Plain requests, raw TCP and remote configuration are the published agent's; no edge of ours sends them.
            self._answer(stream, 501, TunnelErrorCode.BAD_REQUEST, "This agent carries WebSockets only.")
        elif self._place is None:
            self._answer(stream, 503, TunnelErrorCode.NO_INGRESS, NO_INGRESS, meta=metadata.META_ORIGIN)
        else:
            task = self._tasks.spawn(self._open(stream, *self._place), "stream")
            stream.set_protocol(_Awaiting(task))

    async def _open(self, stream: LinkStream, host: str, port: int) -> None:
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(self._limits.origin_seconds):
                transport = await dial_tcp(host, port, timeout=self._limits.origin_seconds)
                response = await request_upgrade(
                    transport,
                    host=_value(stream.headers, b":authority"),
                    path=_value(stream.headers, b":path"),
                    headers=_replayed(stream.headers),
                    timeout=self._limits.origin_seconds,
                )
        except LocalProtocolError as exc:
            self._log.warning("stream refused", error=exc.public, detail=exc.detail)
            self._answer(stream, 400, TunnelErrorCode.BAD_REQUEST, "The request's head cannot be passed on.")
        except (PenstockError, OSError, TimeoutError) as exc:
            _let_go(transport)
            self._log.warning("origin unreachable", origin=f"{host}:{port}", error=_reason(exc))
            self._answer(stream, 502, TunnelErrorCode.PROXY_UNREACHABLE, "Nothing answers on the agent's local target.")
        except BaseException:  # the edge gave the stream up; or it is a mistake of ours, and then the edge shall not wait
            _let_go(transport)
            stream.abort()
            raise
        else:
            self._answered(stream, transport, response)

    def _answered(self, stream: LinkStream, transport: asyncio.Transport, response: UpgradeResponse) -> None:
        is_upgrade = response.status == 101
        head = [
            (b":status", b"200" if is_upgrade else b"%d" % response.status),
            (metadata.RESPONSE_HEADERS, metadata.serialize_headers(response.headers)),
            (metadata.RESPONSE_META, metadata.META_ORIGIN),
        ]
        if not is_upgrade:
            self._metrics.streams.labels("refused").inc()
            stream.respond(head, response.body[: self._limits.refusal_bytes])
            return
        self._metrics.streams.labels("opened").inc()
        self._live.add(stream)
        self._metrics.live.set(len(self._live))

        def done(result: RelayResult) -> None:
            self._live.discard(stream)
            self._metrics.live.set(len(self._live))
            self._metrics.relayed.labels("to_origin").inc(result.a_to_b)
            self._metrics.relayed.labels("to_edge").inc(result.b_to_a)

        stream.respond(head)
        relay.join(stream, transport, to_a=response.rest, on_done=done)

    def _answer(
        self, stream: LinkStream, status: int, code: TunnelErrorCode, text: str, *, meta: bytes = metadata.META_AGENT
    ) -> None:
        self._metrics.streams.labels(code.value).inc()
        fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Penstock-Error", code.value.encode())]
        head = [
            (b":status", b"%d" % status),
            (metadata.RESPONSE_HEADERS, metadata.serialize_headers(fields)),
            (metadata.RESPONSE_META, meta),
        ]
        stream.respond(head, f"{text}\n".encode())


class _Awaiting(Parked):
    """Holds a stream whose proxy is being asked; the edge giving it up ends the asking."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        super().__init__()
        self._task = task

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._task.cancel()


def _is_refusal(cause: BaseException | None) -> bool:
    """Whether a dial was answered no; of a name with several addresses, asyncio tells no errno."""
    if not isinstance(cause, OSError) or isinstance(cause, TimeoutError | socket.gaierror):
        return False
    return cause.errno not in {errno.EMFILE, errno.ENFILE}


def _let_go(transport: asyncio.Transport | None) -> None:
    # Not twice: a socket transport of CPython's that is gone already fails on abort.
    if transport is not None and not transport.is_closing():
        cut(transport)


def _replayed(headers: Headers) -> Headers:
    return [
        (name, value)
        for name, value in headers
        if not name.startswith(b":") and name not in _DROPPED and not metadata.is_control_header(name)
    ]


def _value(headers: Headers, name: bytes) -> str:
    return dict(headers).get(name, b"").decode("latin-1")


def _reason(exc: BaseException) -> str:
    if isinstance(exc, PenstockError):
        return exc.detail or exc.public
    return str(exc) or type(exc).__name__
