"""What a proxy counts. Label values are routes, statuses and codes: all bounded, none from a caller's text."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import CollectorRegistry, Metric

# A tool call takes milliseconds or minutes, and a stream hours.
_SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
NO_ROUTE: Final = "none"


class ProxyMetrics:
    """One proxy's counters in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.streams = Gauge("penstock_proxy_streams", "Callers' streams that are open", registry=registry)
        self.handshakes_failed = Counter(
            "penstock_proxy_handshakes_failed", "Inner TLS handshakes that failed", ["reason"], registry=registry
        )
        self.refusals = Counter("penstock_proxy_refusals", "Requests refused by the proxy", ["code"], registry=registry)
        self._certificate = Gauge(
            "penstock_proxy_certificate_expiry_timestamp_seconds", "When the certificate expires", registry=registry
        )
        self._reloads = Counter(
            "penstock_proxy_reloads", "Changes of files that were seen", ["what", "taken"], registry=registry
        )
        self._upstream = Gauge("penstock_proxy_upstream_connections", "Connections to upstreams", ["state"], registry=registry)
        self._rows: dict[str, RouteRow] = {}
        registry.register(_Rows(self._rows))

    def watch_pool(self, idle: Callable[[], float], opened: Callable[[], float]) -> None:
        """Ask the pool when somebody looks."""
        self._upstream.labels("idle").set_function(idle)
        self._upstream.labels("open").set_function(opened)

    def certificate_loaded(self, expires: float) -> None:
        """The certificate in use expires at this Unix time."""
        self._certificate.set(expires)

    def reloaded(self, what: str, *, is_taken: bool) -> None:
        """A changed `certificate` or `config` was taken into use, or not."""
        self._reloads.labels(what, "yes" if is_taken else "no").inc()

    def row(self, route: str | None) -> RouteRow:
        """The counters of one route."""
        name = route or NO_ROUTE
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = RouteRow()
        return row


class RouteRow:
    """One route's counts: plain numbers, for a request pays for each of them; `_Rows` makes samples of them."""

    __slots__ = ("bodies_in", "bodies_out", "buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(_SECONDS) + 1)
        self.seconds = 0.0
        self.bodies_in = 0
        self.bodies_out = 0

    def request_ended(self, status: int, seconds: float, *, received: int, sent: int) -> None:
        """One request is over; status 0 is a caller that left before there was one."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.buckets[bisect_left(_SECONDS, seconds)] += 1
        self.seconds += seconds
        self.bodies_in += received
        self.bodies_out += sent


class _Rows(Collector):
    """All routes' counts, as Prometheus takes them."""

    def __init__(self, rows: Mapping[str, RouteRow]) -> None:
        self._rows = rows

    def describe(self) -> Iterable[Metric]:
        """Their names, so that no other metric can take one."""
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        """Samples of now."""
        requests = CounterMetricFamily("penstock_proxy_requests", "Requests", labels=["route", "status"])
        seconds = HistogramMetricFamily("penstock_proxy_request_seconds", "Head to end of a request", labels=["route"])
        bodies = CounterMetricFamily("penstock_proxy_body_bytes", "Bodies' bytes", labels=["route", "direction"])
        for name, row in self._rows.items():
            for status, count in row.statuses.items():
                requests.add_metric([name, str(status)], count)
            counts = zip([*(str(float(bound)) for bound in _SECONDS), "+Inf"], accumulate(row.buckets), strict=True)
            seconds.add_metric([name], list(counts), row.seconds)
            bodies.add_metric([name, "request"], row.bodies_in)
            bodies.add_metric([name, "response"], row.bodies_out)
        return requests, seconds, bodies
