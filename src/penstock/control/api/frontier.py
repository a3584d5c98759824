"""The outermost layer of the API: what holds for every request before a route is looked for, and after it answered.

Bodies are read here, whole, bounded in bytes and in time: they are small, and no route then meets a slow or an endless one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from penstock import ids
from penstock.control.api.addresses import client_address
from penstock.control.api.envelope import refusal
from penstock.control.api.rates import RequestRates
from penstock.control.auth import actors
from penstock.control.errors import ApiError
from penstock.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from penstock.control.api.rates import Taken
    from penstock.control.config import ControlConfig
    from penstock.control.metrics import ControlMetrics

# Unless a route said otherwise. Nothing here is for browsers, and no page may take it for its own.
_HEADERS: Final = (
    (b"cache-control", b"no-store"),  # answers hold tokens
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
_ONLY_TLS: Final = (b"strict-transport-security", b"max-age=31536000")
_USER_AGENT: Final = 200  # characters kept of it in the audit log
_DRAINED: Final = 1 << 20  # bytes of a refused body; whoever sends more may miss the answer


class Frontier:
    """An ASGI application around the API."""

    def __init__(self, app: ASGIApp, config: ControlConfig, metrics: ControlMetrics, entropy: Callable[[int], bytes]) -> None:
        self._app = app
        self._limits = config.limits
        self._trusted = config.trusted_proxies
        self._rates = RequestRates(config.limits.rates)
        is_tls = config.has_tls or (config.public_url or "").startswith("https://")
        self._headers = (*_HEADERS, _ONLY_TLS) if is_tls else _HEADERS
        self._metrics = metrics
        self._entropy = entropy
        self._running = 0
        self._served = 0  # of them, those whose body is here
        self._log = get_logger("control")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. No exception leaves: each became an envelope or, once bytes were sent, a cut connection."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        request_id = ids.make(ids.REQUEST, self._entropy(16))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        origin = self._origin(scope, request_id)
        actors.origin.set(origin)
        answer = _Answer(send, request_id, state, self._headers)
        self._running += 1
        self._metrics.running.set(self._running)
        try:
            await self._serve(scope, receive, answer, origin.ip_address)
        except Exception as exc:  # noqa: BLE001 - the accept loop of requests; the inner handler has logged it
            self._log.debug("request ended by an exception", request_id=request_id, error=type(exc).__name__)
        finally:
            self._running -= 1
            self._metrics.running.set(self._running)
            self._rates.answered(scope["path"], _credential(scope), answer.size)
            self._record(scope, answer, time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer, address: str | None) -> None:
        body: bytes | None = None
        try:
            self._count(scope, answer, address)
            body = await self._read(scope, receive)
            if body is not None and self._served >= self._limits.requests:
                raise ApiError("overloaded_error", "the control plane is busy; try again")
        except ApiError as exc:
            answer.refusal = exc
            is_whole = body is not None or (not isinstance(exc, _TooSlowError) and await self._drain(receive))
            refused = refusal(exc, answer.request_id, headers={} if is_whole else {"connection": "close"})
            await refused(scope, receive, answer.send)
            return
        if body is None:
            return
        self._served += 1
        try:
            await self._app(scope, _replay(body, receive), answer.send)
        finally:
            self._served -= 1

    def _count(self, scope: Scope, answer: _Answer, address: str | None) -> None:
        taken = self._rates.take(scope["method"], scope["path"], address, _credential(scope))
        if taken is None:
            return
        answer.extra.extend(_rate_headers(taken))
        if taken.wait:
            hint = f"wait {math.ceil(taken.wait)} s, as retry-after says"
            raise ApiError("rate_limit_error", f"too many requests {taken.whose}", hint=hint, retry_after=taken.wait)

    async def _drain(self, receive: Receive) -> bool:
        """Drop some of what still comes: closing at once would reset the connection and take the answer with it.

        Whether that was all of it.
        """
        left = _DRAINED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.body_seconds):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return True
        return False

    def _origin(self, scope: Scope, request_id: str) -> actors.Origin:
        client = scope.get("client")
        forwarded = [value.decode("latin-1") for value in _values(scope, b"x-forwarded-for")]
        address = client_address(client[0] if client else None, forwarded, self._trusted)
        agent = next(iter(_values(scope, b"user-agent")), b"").decode("latin-1")
        return actors.Origin(request_id, address, agent[:_USER_AGENT] or None)

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

    def __init__(self, send: Send, request_id: str, state: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._send = send
        self._headers = headers
        self.request_id = request_id
        self.state = state
        self.status = 499
        self.size = 0
        self.refusal: ApiError | None = None
        self.extra: list[tuple[bytes, bytes]] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *self.extra]
            said = {name for name, _ in headers}
            headers.extend(header for header in self._headers if header[0] not in said)
            headers.append((b"request-id", self.request_id.encode()))
            headers.append((b"date", formatdate(usegmt=True).encode()))
            headers.extend((name.encode(), value.encode()) for name, value in self.state.get("headers", {}).items())
            message = {**message, "headers": headers}
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _credential(scope: Scope) -> str | None:
    """What was presented, in either style; not yet looked at."""
    for value in (*_values(scope, b"authorization"), *_values(scope, b"x-api-key")):
        text = value.decode("latin-1").strip()
        return text[7:].strip() if text[:7].lower() == "bearer " else text
    return None


def _rate_headers(taken: Taken) -> list[tuple[bytes, bytes]]:
    """The published ones."""
    full = datetime.now(UTC) + timedelta(seconds=taken.full_in)
    said = {"limit": str(taken.limit), "remaining": str(taken.remaining), "reset": f"{full:%Y-%m-%dT%H:%M:%SZ}"}
    return [(f"anthropic-ratelimit-requests-{name}".encode(), value.encode()) for name, value in said.items()]


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then whatever comes (the client's leaving)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
