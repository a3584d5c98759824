"""What all requests of a proxy share."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
