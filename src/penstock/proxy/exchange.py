"""One request from its head to its end: routed, sent upstream, answered, counted.

It holds no body: what cannot be passed on at once makes the side it came from pause. Whatever ends it, it ends once, both
sides know, and one line of the log says how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.proxy.deadline import Deadline
from penstock.proxy.events import KEEPALIVE, EventStream, is_event_stream, is_standing
from penstock.proxy.record import Record
from penstock.proxy.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.proxy.heads import Header, RequestHead, ResponseHead
    from penstock.proxy.routes import Route
    from penstock.proxy.service import Service
    from penstock.proxy.sides import Caller
    from penstock.proxy.upstream import UpstreamConnection

_MISDIRECTED: Final = 421
_SWITCHED: Final = 101


class Exchange:
    """One request; `request` is its head as it goes `to` a route, and `number` tells it from the others in the log."""

    __slots__ = (
        "_asks_upgrade",
        "_caller",
        "_cancel_wait",
        "_connection",
        "_events",
        "_fields",
        "_is_answered",
        "_is_caller_choked",
        "_is_choked",
        "_is_ending",
        "_is_standing",
        "_record",
        "_refusal",
        "_route",
        "_service",
        "_silence",
        "_stall",
        "_total",
        "_upload",
        "is_over",
    )

    def __init__(
        self, service: Service, caller: Caller, head: RequestHead, to: Route | TunnelError, request: bytes, number: str
    ) -> None:
        route = None if isinstance(to, TunnelError) else to
        self.is_over = False
        self._service = service
        self._record = Record(service, number, head, route.name if route is not None else None)
        self._caller: Caller | None = caller
        self._route = route
        self._refusal = to if isinstance(to, TunnelError) else None
        self._fields = head.fields
        self._asks_upgrade = head.is_upgrade
        self._upload = Upload(head, request)
        self._connection: UpstreamConnection | None = None
        self._cancel_wait: Callable[[], object] | None = None
        self._is_answered = False
        self._is_choked = False  # the upstream reads slower than the caller writes
        self._is_caller_choked = False
        self._events: EventStream | None = None  # where the response is one
        self._is_standing = False  # it has no end of its own
        self._is_ending = False  # it ends with the event under way
        self._silence: Deadline | None = None
        self._stall: Deadline | None = None
        self._total: Deadline | None = None

    # --- from the caller --------------------------------------------------------------------------------------------

    def start(self, head: RequestHead) -> None:
        """Route the request; what of its body was fed before goes out with its head."""
        if self.is_over:
            return
        self._record.started()
        total = self._service.limits.total_timeout
        if total:
            self._total = Deadline(self._service.loop, self._out_of_time)
            self._total.set(total)
        if self._refusal is not None:
            self._fail(self._refusal)
        elif self._route is not None:
            gate = None if self._route.oauth is None else self._service.gates.find(self._route)
            if gate is None:
                self.admitted()
            else:
                self._cancel_wait = gate.ask(head, self) or self._cancel_wait

    def refuse(self, error: TunnelError) -> None:
        """The request breaks a rule: answer so, or cut when the response is on its way already."""
        if not self.is_over:
            self._let_go()
            self._fail(error)

    def request_data(self, data: bytes) -> None:
        """Some of the request's body."""
        self._record.received += len(data)
        self._upload.data(data, self._connection)

    def request_ended(self, trailers: Sequence[Header] = ()) -> None:
        """The request's body is whole."""
        self._upload.end(trailers, self._connection)
        if self._connection is not None and self._caller is not None and not self._is_answered:
            self._caller.request_passed()

    def caller_lost(self, *, is_clean: bool) -> None:
        """The caller is gone: so is its request, at once. What a WebSocket's caller said before it ended in order arrives."""
        if self.is_over:
            return
        connection = self._connection
        if is_clean and connection is not None and self._record.status == _SWITCHED:
            self._connection = None
            connection.close()
        self._let_go()
        self._over("caller_gone")

    def drain(self) -> None:
        """The proxy stops: what has no end of its own ends at the next event's end, anything else goes on."""
        if self._is_standing and not self.is_over:
            self._is_ending = True
            if self._events is None or self._events.is_at_boundary:
                self._end_standing()

    def pause_response(self) -> None:
        """The caller reads slower than the upstream writes."""
        self._is_caller_choked = True
        self._watch_stall()
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_response(self) -> None:
        """It has caught up."""
        self._is_caller_choked = False
        self._watch_stall()
        if self._connection is not None:
            self._connection.resume_reading()

    def timed_out(self) -> None:
        """The upstream has not begun to answer in time."""
        self.refuse(_late("the upstream of this route did not answer in time", "nothing within limits.first_byte_timeout"))

    @property
    def holds_request(self) -> bool:
        """Whether the caller must not send more of the body now."""
        return not self._upload.is_whole and not self.is_over and (self._is_choked or self._upload.waits)

    # --- from the gate and the pool ---------------------------------------------------------------------------------

    def admitted(self) -> None:
        """As `gate.Asking`."""
        self._cancel_wait = None
        if self._route is not None and not self.is_over:
            self._cancel_wait = self._service.pool.request(self._route, self)

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """As `gate.Asking`."""
        self.response_started(head)
        self.response_data(body)
        self.response_ended(())

    def connected(self, connection: UpstreamConnection) -> None:
        """As `pool.Waiting`."""
        self._cancel_wait = None
        if self.is_over:
            connection.abort()
            return
        self._connection = connection
        request = self._upload.begin(is_bare=not self._record.received)
        connection.start(self, request, is_head_request=self._record.method == b"HEAD", asks_upgrade=self._asks_upgrade)
        if self._caller is not None and not self.is_over:
            if self._upload.is_whole:
                self._caller.request_passed()
            else:
                self._caller.update_reading()

    def not_connected(self, error: TunnelError) -> None:
        """As `pool.Waiting`."""
        self._cancel_wait = None
        if not self.is_over:
            self._fail(error)

    # --- from the upstream ------------------------------------------------------------------------------------------

    def informed(self, head: ResponseHead) -> None:
        """As `sides.Answered`."""
        if self._caller is not None:
            self._caller.inform(head)

    def response_started(self, head: ResponseHead) -> None:
        """As `sides.Answered`."""
        self._is_answered = True
        self._record.status = head.status
        self._upload.forget()
        if head.status == _SWITCHED:
            self._upload.switch()
            self._is_standing = True
        elif is_event_stream(head):
            self._begin_events()
        self._fields = b""
        if head.status == _MISDIRECTED and self._route is not None and self._route.host_header is None:
            self._record.misdirected()
        if self._caller is not None:
            self._caller.respond(head)
        if self._service.is_draining:
            self.drain()

    def response_data(self, data: bytes) -> None:
        """As `sides.Answered`."""
        if self._events is not None:
            data = self._pass_events(self._events, data)
        self._record.sent += len(data)
        if self._caller is not None:
            self._caller.respond_data(data)
            if self._is_ending and self._events is not None and self._events.is_at_boundary:
                self._end_standing()

    def response_ended(self, trailers: Sequence[Header]) -> bool:
        """As `sides.Answered`."""
        is_sent = self._upload.is_whole
        self._connection = None
        caller = self._caller
        self._over("ok")
        if caller is not None:
            caller.respond_end(trailers)
        return is_sent

    def flush(self) -> None:
        """As `sides.Answered`."""
        if self._caller is not None:
            self._caller.flush()

    def upstream_failed(self, reason: str, *, is_stale: bool) -> None:
        """As `sides.Answered`."""
        self._connection = None
        self._is_choked = False
        if self.is_over:
            return
        if is_stale and self._upload.may_be_repeated(is_bare=not self._record.received) and self._route is not None:
            self._upload.repeat()
            self._cancel_wait = self._service.pool.request(self._route, self, is_fresh=True)
            return
        self._fail(
            TunnelError(TunnelErrorCode.UPSTREAM_PROTOCOL, "the upstream of this route gave no proper answer", detail=reason)
        )

    def pause_request(self) -> None:
        """As `sides.Answered`."""
        self._is_choked = True
        self._watch_stall()
        if self._caller is not None:
            self._caller.update_reading()

    def resume_request(self) -> None:
        """As `sides.Answered`."""
        self._is_choked = False
        self._watch_stall()
        if self._caller is not None:
            self._caller.update_reading()

    # --- event streams and what else has no end ---------------------------------------------------------------------

    def _begin_events(self) -> None:
        self._events = EventStream()
        self._is_standing = is_standing(self._record.method, self._fields)
        silence = self._route.sse_keepalive if self._route is not None else 0.0
        if silence:
            self._silence = Deadline(self._service.loop, self._silent)
            self._silence.set(silence)

    def _pass_events(self, events: EventStream, data: bytes) -> bytes:
        """What of `data` is the caller's: all of it, but where the stream ends with the event under way."""
        if self._is_ending:
            data = data[: events.rest_of_event(data)]
        events.feed(data)
        if self._silence is not None and self._route is not None:
            self._silence.set(self._route.sse_keepalive)
        return data

    def _silent(self) -> None:
        if self.is_over or self._caller is None or self._events is None or self._silence is None or self._route is None:
            return
        if self._events.is_at_boundary and not self._is_caller_choked:
            self._caller.respond_data(KEEPALIVE)
            self._caller.flush()
        self._silence.set(self._route.sse_keepalive)

    def _end_standing(self) -> None:
        caller, connection = self._caller, self._connection
        self._connection = None
        if connection is not None:
            connection.close() if self._events is None else connection.abort()
        self._over("drained")
        if caller is not None:
            caller.respond_end()

    # --- what takes too long ----------------------------------------------------------------------------------------

    def _watch_stall(self) -> None:
        if self.is_over:
            return
        if not (self._is_choked or self._is_caller_choked):
            if self._stall is not None:
                self._stall.clear()
            return
        if self._stall is None:
            self._stall = Deadline(self._service.loop, self._stalled)
        self._stall.set(self._service.limits.stall_timeout)

    def _stalled(self) -> None:
        if self._is_choked:
            self.refuse(_late("the upstream of this route does not take the request", "nothing taken in limits.stall_timeout"))
        elif not self.is_over:
            self._let_go()
            caller = self._caller
            self._over("caller_stalled")
            if caller is not None:
                caller.cut()

    def _out_of_time(self) -> None:
        self.refuse(_late("the upstream of this route did not finish in time", "the request took limits.total_timeout"))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _fail(self, error: TunnelError) -> None:
        self._record.refused(error)
        caller = self._caller
        if self._is_answered:
            self._over(error.code.value)
            if caller is not None:
                caller.cut()
            return
        self._record.status = error.status
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
        for deadline in (self._silence, self._stall, self._total):
            if deadline is not None:
                deadline.close()
        self._caller = None
        self._is_choked = False
        if not self._is_answered:
            self._upload.forget()
        self._record.ended(outcome, identity)


def _late(public: str, detail: str) -> TunnelError:
    return TunnelError(TunnelErrorCode.UPSTREAM_TIMEOUT, public, detail=detail)
