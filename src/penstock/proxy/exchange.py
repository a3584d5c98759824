"""One request from its head to its end: routed, sent upstream, answered, counted.

It holds no body: what cannot be passed on at once makes the side it came from pause. Whatever ends it, it ends once, both
sides know, and one line of the log says how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.proxy.bodies import LAST_CHUNK, encode_chunk
from penstock.proxy.headers import upstream_request
from penstock.proxy.heads import Framing, RequestHead, ResponseHead

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.proxy.routes import Route
    from penstock.proxy.service import Service
    from penstock.proxy.upstream import UpstreamConnection
    from penstock.tls.names import CallerIdentity

_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"})  # RFC 9110 9.2.2
_PATH_LOGGED: Final = 256
_MISDIRECTED: Final = 421


class Caller(Protocol):
    """The caller's side of an exchange: the pipeline. `identity` is what its certificate says, where it has one."""

    identity: CallerIdentity | None

    def inform(self, head: ResponseHead) -> None:
        """Pass a 1xx on."""
        ...

    def respond(self, head: ResponseHead) -> None:
        """Send the response's head."""
        ...

    def respond_data(self, data: bytes) -> None:
        """Send some of the response's body."""
        ...

    def respond_end(self) -> None:
        """The response is whole: the exchange is over."""
        ...

    def refuse(self, error: TunnelError) -> None:
        """Answer with the tunnel's own error: the exchange is over."""
        ...

    def cut(self) -> None:
        """The response cannot be finished, and the caller must see that: the exchange is over."""
        ...

    def flush(self) -> None:
        """Write what was sent since the last flush, in one piece."""
        ...

    def update_reading(self) -> None:
        """`Exchange.holds_request` has changed."""
        ...

    def request_passed(self) -> None:
        """The whole request is on its way: the response's time runs."""
        ...


class Exchange:
    """One request; `number` tells it from the others in the log."""

    __slots__ = (
        "_began",
        "_caller",
        "_cancel_wait",
        "_connection",
        "_framing",
        "_host",
        "_is_answered",
        "_is_choked",
        "_is_retried",
        "_is_sent",
        "_method",
        "_outgoing",
        "_path",
        "_received",
        "_refusal",
        "_request",
        "_route",
        "_sent",
        "_service",
        "_status",
        "is_over",
        "number",
    )

    def __init__(self, service: Service, caller: Caller, head: RequestHead, to: Route | TunnelError, number: str) -> None:
        route = None if isinstance(to, TunnelError) else to
        self.number = number
        self.is_over = False
        self._service = service
        self._caller: Caller | None = caller
        self._route = route
        self._refusal = to if isinstance(to, TunnelError) else None
        self._method = head.method
        self._host = head.host
        self._path = head.target.partition(b"?")[0][:_PATH_LOGGED]  # queries hold session ids and codes
        self._framing = head.framing
        self._request = upstream_request(head, route.host_header) if route is not None else b""
        self._outgoing: list[bytes] | None = []  # body that came before there was a connection; None once there was
        self._connection: UpstreamConnection | None = None
        self._cancel_wait: Callable[[], object] | None = None
        self._is_sent = False
        self._is_answered = False
        self._is_choked = False
        self._is_retried = False
        self._began = service.loop.time()
        self._status = 0
        self._received = 0
        self._sent = 0

    # --- from the caller --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Route the request; what of its body was fed before goes out with its head."""
        if self.is_over:
            return
        self._service.log.info(
            "request started",
            request=self.number,
            route=self._route.name if self._route else None,
            method=self._method.decode(),
            path=self._path.decode(),
        )
        if self._refusal is not None:
            self._fail(self._refusal)
        elif self._route is not None:
            self._cancel_wait = self._service.pool.request(self._route, self)

    def refuse(self, error: TunnelError) -> None:
        """The request breaks a rule: answer so, or cut when the response is on its way already."""
        if not self.is_over:
            self._let_go()
            self._fail(error)

    def request_data(self, data: bytes) -> None:
        """Some of the request's body."""
        self._received += len(data)
        self._send(encode_chunk(data) if self._framing is Framing.CHUNKED else data)

    def request_ended(self) -> None:
        """The request's body is whole."""
        if self._framing is Framing.CHUNKED:
            self._send(LAST_CHUNK)
        self._is_sent = True
        if self._connection is not None and self._caller is not None and not self._is_answered:
            self._caller.request_passed()

    def caller_lost(self) -> None:
        """The caller is gone: so is its request, at once."""
        if not self.is_over:
            self._let_go()
            self._over("caller_gone")

    def pause_response(self) -> None:
        """The caller reads slower than the upstream writes."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_response(self) -> None:
        """It has caught up."""
        if self._connection is not None:
            self._connection.resume_reading()

    def timed_out(self) -> None:
        """The upstream has not begun to answer in time."""
        error = TunnelError(
            TunnelErrorCode.UPSTREAM_TIMEOUT, "The upstream of this route did not answer in time", detail="first byte timeout"
        )
        self.refuse(error)

    @property
    def holds_request(self) -> bool:
        """Whether the caller must not send more of the body now."""
        return not self._is_sent and not self.is_over and (self._is_choked or bool(self._outgoing))

    # --- from the pool ----------------------------------------------------------------------------------------------

    def connected(self, connection: UpstreamConnection) -> None:
        """As `pool.Waiting`."""
        self._cancel_wait = None
        if self.is_over:
            connection.abort()
            return
        self._connection = connection
        outgoing, self._outgoing = self._outgoing, None
        request = b"".join([self._request, *outgoing]) if outgoing else self._request
        if not self._may_be_repeated():
            self._request = b""
        connection.start(self, request, is_head_request=self._method == b"HEAD")
        if self._caller is not None and not self.is_over:
            self._caller.update_reading()
            if self._is_sent:
                self._caller.request_passed()

    def not_connected(self, error: TunnelError) -> None:
        """As `pool.Waiting`."""
        self._cancel_wait = None
        if not self.is_over:
            self._fail(error)

    # --- from the upstream ------------------------------------------------------------------------------------------

    def informed(self, head: ResponseHead) -> None:
        """As `upstream.Answered`."""
        if self._caller is not None:
            self._caller.inform(head)

    def response_started(self, head: ResponseHead) -> None:
        """As `upstream.Answered`."""
        self._is_answered = True
        self._status = head.status
        self._request = b""
        if head.status == _MISDIRECTED and self._route is not None and self._route.host_header is None:
            self._service.log.warning(
                "upstream answered 421",
                request=self.number,
                route=self._route.name,
                hint=f"it does not know this Host; set host_header: upstream on route {self._route.name}",
            )
        if self._caller is not None:
            self._caller.respond(head)

    def response_data(self, data: bytes) -> None:
        """As `upstream.Answered`."""
        self._sent += len(data)
        if self._caller is not None:
            self._caller.respond_data(data)

    def response_ended(self) -> bool:
        """As `upstream.Answered`."""
        is_sent = self._is_sent
        self._connection = None
        caller = self._caller
        self._over("ok")
        if caller is not None:
            caller.respond_end()
        return is_sent

    def flush(self) -> None:
        """As `upstream.Answered`."""
        if self._caller is not None:
            self._caller.flush()

    def upstream_failed(self, reason: str, *, is_stale: bool) -> None:
        """As `upstream.Answered`."""
        self._connection = None
        self._is_choked = False
        if self.is_over:
            return
        if is_stale and self._may_be_repeated() and self._route is not None:
            self._is_retried = True
            self._outgoing = []
            self._cancel_wait = self._service.pool.request(self._route, self, is_fresh=True)
            return
        self._fail(
            TunnelError(TunnelErrorCode.UPSTREAM_PROTOCOL, "The upstream of this route gave no proper answer", detail=reason)
        )

    def pause_request(self) -> None:
        """As `upstream.Answered`."""
        self._is_choked = True
        if self._caller is not None:
            self._caller.update_reading()

    def resume_request(self) -> None:
        """As `upstream.Answered`."""
        self._is_choked = False
        if self._caller is not None:
            self._caller.update_reading()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        if self._outgoing is not None:
            self._outgoing.append(data)
        elif self._connection is not None:
            self._connection.write(data)

    def _may_be_repeated(self) -> bool:
        """RFC 9110 9.2.2: only what the upstream may see twice, once, and only while we still have all of it: no body."""
        return self._method in _IDEMPOTENT and not self._received and self._is_sent and not self._is_retried

    def _fail(self, error: TunnelError) -> None:
        route = self._route.name if self._route else None
        self._service.refused(error, self.number, route=route, host=self._host.decode())
        caller = self._caller
        if self._is_answered:
            self._over(error.code.value)
            if caller is not None:
                caller.cut()
            return
        self._status = error.status
        self._over(error.code.value)
        if caller is not None:
            caller.refuse(error)

    def _let_go(self) -> None:
        if self._cancel_wait is not None:
            self._cancel_wait()
            self._cancel_wait = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _over(self, outcome: str) -> None:
        identity = self._caller.identity if self._caller is not None else None
        self.is_over = True
        self._caller = None
        self._outgoing = None
        self._is_choked = False
        service = self._service
        seconds = service.loop.time() - self._began
        name = self._route.name if self._route else None
        service.metrics.row(name).request_ended(self._status, seconds, received=self._received, sent=self._sent)
        service.log.info(
            "request ended",
            request=self.number,
            route=name,
            method=self._method.decode(),
            path=self._path.decode(),
            caller=identity.caller_id if identity is not None else None,
            status=self._status,
            outcome=outcome,
            seconds=round(seconds, 4),
            received=self._received,
            sent=self._sent,
        )
