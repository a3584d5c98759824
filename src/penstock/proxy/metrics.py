"""What a proxy counts. Label values are routes, statuses and codes: all bounded, none from a caller's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

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
        self._requests = Counter("penstock_proxy_requests", "Requests", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "penstock_proxy_request_seconds", "Head to end of a request", ["route"], buckets=_SECONDS, registry=registry
        )
        self._bytes = Counter("penstock_proxy_body_bytes", "Bodies' bytes", ["route", "direction"], registry=registry)
        self._certificate = Gauge(
            "penstock_proxy_certificate_expiry_seconds", "Unix time at which the certificate expires", registry=registry
        )
        self._upstream = Gauge("penstock_proxy_upstream_connections", "Connections to upstreams", ["state"], registry=registry)
        self._rows: dict[str, RouteRow] = {}

    def watch_pool(self, idle: Callable[[], float], opened: Callable[[], float]) -> None:
        """Ask the pool when somebody looks."""
        self._upstream.labels("idle").set_function(idle)
        self._upstream.labels("open").set_function(opened)

    def certificate_loaded(self, expires: float) -> None:
        """The certificate in use expires at this Unix time."""
        self._certificate.set(expires)

    def row(self, route: str | None) -> RouteRow:
        """The counters of one route, their labels looked up once."""
        name = route or NO_ROUTE
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = RouteRow(name, self._requests, self._seconds, self._bytes)
        return row


class RouteRow:
    """One route's counters."""

    __slots__ = ("_in", "_name", "_out", "_requests", "_seconds", "_statuses")

    def __init__(self, name: str, requests: Counter, seconds: Histogram, moved: Counter) -> None:
        self._name = name
        self._requests = requests
        self._statuses: dict[int, Counter] = {}
        self._seconds = seconds.labels(name)
        self._in = moved.labels(name, "request")
        self._out = moved.labels(name, "response")

    def request_ended(self, status: int, seconds: float, *, received: int, sent: int) -> None:
        """One request is over; status 0 is a caller that left before there was one."""
        counter = self._statuses.get(status)
        if counter is None:
            counter = self._statuses[status] = self._requests.labels(self._name, str(status))
        counter.inc()
        self._seconds.observe(seconds)
        if received:
            self._in.inc(received)
        if sent:
            self._out.inc(sent)
