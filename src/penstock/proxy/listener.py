"""From a TCP connection to a pipeline: the upgrade, the WebSocket, inner TLS, the caller's certificate."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from typing import TYPE_CHECKING, Final

from penstock.errors import PenstockError, TunnelError, TunnelErrorCode
from penstock.net.tls import start_tls
from penstock.net.transports import cut
from penstock.net.upgrade import UpgradeListener
from penstock.net.websocket import WebSocketTransport, open_websocket
from penstock.proxy.pipeline import Pipeline
from penstock.tls.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.net.upgrade import UpgradeRequest
    from penstock.proxy.callers import Callers
    from penstock.proxy.service import Service
    from penstock.tls.contexts import TLSContext

_POLICY: Final = 1008

# What the caller's alert says, in the words that the published troubleshooting page has.
_ALERTS: Final = {
    "ALERT_UNKNOWN_CA": "unknown certificate authority",
    "ALERT_BAD_CERTIFICATE": "bad certificate",
    "ALERT_CERTIFICATE_EXPIRED": "expired certificate",
    "ALERT_CERTIFICATE_UNKNOWN": "unknown certificate",
    "ALERT_UNSUPPORTED_CERTIFICATE": "unsupported certificate",
    "ALERT_HANDSHAKE_FAILURE": "handshake failure",
    "ALERT_PROTOCOL_VERSION": "protocol version not supported",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "caller certificate missing",
    "CERTIFICATE_VERIFY_FAILED": "caller certificate refused",
    "NO_SHARED_CIPHER": "no shared cipher",
    "UNSUPPORTED_PROTOCOL": "protocol version not supported",
    "HTTP_REQUEST": "not TLS",
    "WRONG_VERSION_NUMBER": "not TLS",
}


class Streams:
    """The streams of a proxy, from their upgrade to their end."""

    def __init__(self, service: Service, callers: Callers, context: Callable[[], TLSContext]) -> None:
        self._service = service
        self.callers = callers
        self._context = context
        self._numbers = itertools.count(1)
        self._opening: set[_Opening] = set()
        self._open: set[Pipeline] = set()
        self._all_gone: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._opening) + len(self._open)

    def accept(self) -> asyncio.Protocol:
        """The protocol of a fresh connection."""
        return UpgradeListener(
            self._requested,
            on_refused=self._refused,
            head_timeout=self._service.limits.handshake_timeout,
        )

    @property
    def busy(self) -> int:
        """How many have a request under way."""
        return sum(pipeline.is_busy for pipeline in self._open)

    async def drain(self, timeout: float) -> int:
        """Let requests finish, for `timeout` seconds; how many streams had to be cut."""
        self._service.is_draining = True
        for opening in list(self._opening):
            opening.abort()
        for pipeline in list(self._open):
            pipeline.drain()
        self._all_gone = asyncio.Event()
        left = 0
        if len(self):
            try:
                async with asyncio.timeout(timeout):
                    await self._all_gone.wait()
            except TimeoutError:
                left = len(self._open)
        for pipeline in list(self._open):
            pipeline.abort()
        return left

    # --- from the upgrade -------------------------------------------------------------------------------------------

    def _requested(self, request: UpgradeRequest) -> None:
        if self._service.is_draining or len(self) >= self._service.limits.streams:
            refusal = TunnelError(
                TunnelErrorCode.RATE_LIMITED,
                "the proxy takes no more streams now",
                detail="draining" if self._service.is_draining else f"{len(self)} streams are open",
                retry_after=1,
            )
            self._refused(refusal)
            request.refuse(refusal)
            return
        early = request.accept()
        opening = _Opening(self, request.host)
        self._opening.add(opening)
        open_websocket(request.transport, opening, client_side=False, initial=early)

    def _refused(self, error: TunnelError) -> None:
        self._service.metrics.refusals.labels(error.code.value).inc()
        self._service.log.info("stream refused", code=error.code.value, error=error.detail or error.public)

    # --- from inner TLS ---------------------------------------------------------------------------------------------

    def start(self, opening: _Opening, websocket: WebSocketTransport) -> None:
        """The WebSocket is open: start inner TLS on it."""
        pipeline = Pipeline(
            self._service,
            upgrade=opening.host,
            number=next(self._numbers),
            leave=websocket.refuse,
            on_lost=self._lost,
        )

        def check(session: ssl.SSLObject) -> None:
            admission = self.callers.admit(session)
            pipeline.identity = admission.identity
            pipeline.is_admitted = lambda: self.callers.still_admits(admission)
            self._opening.discard(opening)
            self._open.add(pipeline)
            self._service.metrics.streams.set(len(self._open))

        def failed(exc: Exception) -> None:
            self._opening.discard(opening)
            self._handshake_failed(exc, opening.host, websocket)
            pipeline.connection_lost(exc)  # it never was connected, but holds its timer and this websocket

        start_tls(
            websocket,
            pipeline,
            self._context(),
            server_side=True,
            handshake_timeout=self._service.limits.handshake_timeout,
            check_peer=check,
            on_failed=failed,
        )

    def _handshake_failed(self, exc: Exception, host: str, websocket: WebSocketTransport) -> None:
        reason = failure_reason(exc, websocket.close_reason)
        self._service.metrics.handshakes_failed.labels(reason if reason in _REASONS else "other").inc()
        hint = exc.hint if isinstance(exc, PenstockError) else None
        detail = exc.detail if isinstance(exc, PenstockError) else None
        self._service.log.warning("tls handshake failed", reason=reason, host=host, error=detail, hint=hint)
        if isinstance(exc, PenstockError):
            websocket.refuse(_POLICY, reason)  # TLS 1.3 leaves a server no alert for this; the caller is told here

    def _lost(self, pipeline: Pipeline) -> None:
        self._open.discard(pipeline)
        self._service.metrics.streams.set(len(self._open))
        self._note_end()

    def _note_end(self) -> None:
        if self._all_gone is not None and not len(self):
            self._all_gone.set()


class _Opening(asyncio.Protocol):
    """The protocol of a fresh WebSocket, until inner TLS takes over: at once."""

    __slots__ = ("_streams", "_websocket", "host")

    def __init__(self, streams: Streams, host: str) -> None:
        self.host = host
        self._streams = streams
        self._websocket: WebSocketTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, WebSocketTransport)  # noqa: S101 - what open_websocket makes
        self._websocket = transport
        self._streams.start(self, transport)

    def abort(self) -> None:
        """Cut the stream."""
        if self._websocket is not None:
            cut(self._websocket)


# A metric's label is never a peer's own text.
_REASONS: Final = frozenset(_ALERTS.values()) | {rule.value for rule in Rule} | {"timed out", "caller left"}


def failure_reason(exc: Exception, close_reason: str) -> str:
    """Why inner TLS failed, in few words: what the caller said in its Close, in its alert, or what we refused it for."""
    if close_reason:
        return close_reason
    if isinstance(exc, PenstockError):
        rule: str | None = getattr(exc, "rule", None)
        return rule or exc.public
    if isinstance(exc, TimeoutError):
        return "timed out"
    if isinstance(exc, ssl.SSLError):
        name = (exc.reason or "").removeprefix("TLSV1_").removeprefix("SSLV3_").removeprefix("TLSV13_")
        return _ALERTS.get(name) or name.replace("_", " ").lower() or "failed"
    return "caller left"
