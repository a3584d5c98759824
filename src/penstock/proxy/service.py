"""What all requests of a proxy share, and the lines of its log that tell of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.errors import TunnelError, TunnelErrorCode

if TYPE_CHECKING:
    import asyncio

    from structlog.typing import FilteringBoundLogger

    from penstock.proxy.limits import ProxyLimits
    from penstock.proxy.metrics import ProxyMetrics
    from penstock.proxy.oauth.gate import Gates
    from penstock.proxy.pool import Pool
    from penstock.proxy.routes import RouteTable


class Service:
    """What all exchanges of a proxy share."""

    __slots__ = ("gates", "is_draining", "limits", "log", "loop", "metrics", "pool", "routes")

    def __init__(
        self,
        *,
        routes: RouteTable,
        pool: Pool,
        gates: Gates,
        limits: ProxyLimits,
        metrics: ProxyMetrics,
        log: FilteringBoundLogger,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.routes = routes
        self.pool = pool
        self.gates = gates
        self.limits = limits
        self.metrics = metrics
        self.log = log
        self.loop = loop
        self.is_draining = False

    def refused(self, error: TunnelError, number: str, *, route: str | None, host: str) -> None:
        """Count a refusal or a failure and tell the log, in the published words where there are some."""
        self.metrics.refusals.labels(error.code.value).inc()
        if error.code is TunnelErrorCode.NO_ROUTE:
            self.log.warning("no route for host", request=number, host=host)
        elif error.code is TunnelErrorCode.ADDRESS_REFUSED:
            self.log.warning(error.detail or error.public, request=number, route=route, hint=error.hint)
        elif error.code is TunnelErrorCode.KEYS_UNAVAILABLE:
            self.log.warning("token not checked", request=number, route=route, error=error.detail, hint=error.hint)
        elif error.status >= 500:
            self.log.warning("upstream failed", request=number, route=route, error=error.detail, hint=error.hint)
        elif error.code is TunnelErrorCode.UNAUTHORIZED:
            self.log.info("token asked for", request=number, route=route, error=error.detail)  # how every OAuth flow begins
        else:
            self.log.warning("request refused", request=number, code=error.code.value, error=error.detail or error.public)

    def ended(
        self,
        number: str,
        *,
        route: str | None,
        method: bytes,
        path: bytes,
        caller: str | None,
        status: int,
        outcome: str,
        began: float,
        received: int,
        sent: int,
    ) -> None:
        """Count a request that is over and tell the log: ids and sizes, no payload and no query."""
        seconds = self.loop.time() - began
        self.metrics.row(route).request_ended(status, seconds, received=received, sent=sent)
        self.log.info(
            "request ended",
            request=number,
            route=route,
            method=method.decode(),
            path=path.decode(),
            caller=caller,
            status=status,
            outcome=outcome,
            seconds=round(seconds, 4),
            received=received,
            sent=sent,
        )
