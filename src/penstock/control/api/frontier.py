"""The outermost layer of the API: what holds for every request before a route is looked for, and after it answered.

Bodies are read here, whole, bounded in bytes and in time: they are small, and no route then meets a slow or an endless one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from penstock import ids
from penstock.control.api.envelope import error_response
from penstock.control.auth import actors
from penstock.control.errors import ApiError
from penstock.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from penstock.control.config import Limits
    from penstock.control.metrics import ControlMetrics

_HEADERS: Final = (
    (b"cache-control", b"no-store"),  # answers hold tokens
    (b"x-content-type-options", b"nosniff"),
)
_USER_AGENT: Final = 200  # characters kept of it in the audit log
_DRAINED: Final = 1 << 20  # bytes of a refused body; whoever sends more may miss the answer


class Frontier:
    """An ASGI application around the API."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: ControlMetrics, entropy: Callable[[int], bytes]) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._entropy = entropy
        self._running = 0
        self._log = get_logger("control")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. No exception leaves: each became an envelope or, once bytes were sent, a cut connection."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        request_id = ids.make(ids.REQUEST, self._entropy(16))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        actors.origin.set(_origin(scope, request_id))
        answer = _Answer(send, request_id, state)
        self._running += 1
        self._metrics.running.set(self._running)
        try:
            await self._serve(scope, receive, answer)
        except Exception as exc:  # noqa: BLE001 - the accept loop of requests; the inner handler has logged it
            self._log.debug("request ended by an exception", request_id=request_id, error=type(exc).__name__)
        finally:
            self._running -= 1
            self._metrics.running.set(self._running)
            self._record(scope, answer, time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            if self._running > self._limits.requests:
                raise ApiError("overloaded_error", "the control plane is busy; try again")
            body = await self._read(scope, receive)
        except ApiError as exc:
            answer.refusal = exc
            if not isinstance(exc, _TooSlowError):
                await self._drain(receive)
            refused = error_response(exc.type, exc.public, answer.request_id, headers={"connection": "close"})
            await refused(scope, receive, answer.send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), answer.send)

    async def _drain(self, receive: Receive) -> None:
        """Drop some of what still comes: closing at once would reset the connection and take the answer with it."""
        left = _DRAINED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.body_seconds):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None when the client left meanwhile."""
        limit = self._limits.body
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
            raise ApiError("request_too_large", f"the body is over {limit} bytes")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    chunk: bytes = message.get("body", b"")
                    size += len(chunk)
                    if size > limit:
                        raise ApiError("request_too_large", f"the body is over {limit} bytes")
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise _TooSlowError from None

    def _record(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(answer.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        refusal = answer.refusal or answer.state.get("refusal")
        self._log.info(
            "request",
            method=scope["method"],
            path=scope["path"][:200],
            status=answer.status,
            ms=round(seconds * 1000, 1),
            request_id=answer.request_id,
            by=answer.state.get("by"),
            **({"reason": refusal.public, "detail": refusal.detail} if isinstance(refusal, ApiError) else {}),
        )


class _TooSlowError(ApiError):
    def __init__(self) -> None:
        super().__init__("invalid_request_error", "the body took too long to arrive")


class _Answer:
    """Adds to each response what all have, and remembers its status; 499 when the client left before it had one."""

    def __init__(self, send: Send, request_id: str, state: dict[str, Any]) -> None:
        self._send = send
        self.request_id = request_id
        self.state = state
        self.status = 499
        self.refusal: ApiError | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *_HEADERS]
            headers.append((b"request-id", self.request_id.encode()))
            headers.append((b"date", formatdate(usegmt=True).encode()))
            headers.extend((name.encode(), value.encode()) for name, value in self.state.get("headers", {}).items())
            message = {**message, "headers": headers}
        await self._send(message)


def _origin(scope: Scope, request_id: str) -> actors.Origin:
    client = scope.get("client")
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    return actors.Origin(request_id, client[0] if client else None, agent.decode("latin-1")[:_USER_AGENT] or None)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then whatever comes (the client's leaving)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
