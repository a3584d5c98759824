"""What the log and the metrics are told of one request: ids and sizes, no payload and no query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import TunnelError, TunnelErrorCode

if TYPE_CHECKING:
    from penstock.proxy.heads import RequestHead
    from penstock.proxy.service import Service
    from penstock.tls.names import CallerIdentity

_PATH_LOGGED: Final = 256


class Record:
    """One request, from its head to the one line that says how it ended.

    status is 0 until a response's head came; received and sent count the bodies' bytes.
    """

    __slots__ = ("_began", "_host", "_path", "_service", "method", "number", "received", "route", "sent", "status")

    def __init__(self, service: Service, number: str, head: RequestHead, route: str | None) -> None:
        self._service = service
        self.number = number
        self.route = route
        self.method = head.method
        self._host = head.host
        self._path = head.target.partition(b"?")[0][:_PATH_LOGGED].decode()  # queries hold session ids and codes
        self._began = service.loop.time()
        self.status = 0
        self.received = 0
        self.sent = 0

    def started(self) -> None:
        """It has been read and goes on its way."""
        self._service.log.info(
            "request started", request=self.number, route=self.route, method=self.method.decode(), path=self._path
        )

    def refused(self, error: TunnelError) -> None:
        """Count a refusal or a failure and tell the log, in the published words where there are some."""
        log, number, route = self._service.log, self.number, self.route
        self._service.metrics.refusals.labels(error.code.value).inc()
        if error.code is TunnelErrorCode.NO_ROUTE:
            log.warning("no route for host", request=number, host=self._host.decode())
        elif error.code is TunnelErrorCode.ADDRESS_REFUSED:
            log.warning(error.detail or error.public, request=number, route=route, hint=error.hint)
        elif error.code is TunnelErrorCode.KEYS_UNAVAILABLE:
            log.warning("token not checked", request=number, route=route, error=error.detail, hint=error.hint)
        elif error.status >= 500:
            log.warning("upstream failed", request=number, route=route, error=error.detail, hint=error.hint)
        elif error.code is TunnelErrorCode.UNAUTHORIZED:
            log.info("token asked for", request=number, route=route, error=error.detail)  # how every OAuth flow begins
        else:
            log.warning("request refused", request=number, code=error.code.value, error=error.detail or error.public)

    def misdirected(self) -> None:
        """The upstream refused the Host that it was sent, which was the caller's."""
        self._service.log.warning(
            "upstream answered 421",
            request=self.number,
            route=self.route,
            hint=f"it does not know this Host; set host_header: upstream on route {self.route}",
        )

    def ended(self, outcome: str, caller: CallerIdentity | None) -> None:
        """Count it and tell the log."""
        seconds = self._service.loop.time() - self._began
        self._service.metrics.row(self.route).request_ended(self.status, seconds, received=self.received, sent=self.sent)
        self._service.log.info(
            "request ended",
            request=self.number,
            route=self.route,
            method=self.method.decode(),
            path=self._path,
            caller=caller.caller_id if caller is not None else None,
            status=self.status,
            outcome=outcome,
            seconds=round(seconds, 4),
            received=self.received,
            sent=self.sent,
        )
