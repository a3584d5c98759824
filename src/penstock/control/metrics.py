"""What a control plane counts. Never an id: those are in the log."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(frozen=True, slots=True)
class ControlMetrics:
    """The counters of one control plane."""

    requests: Counter
    seconds: Histogram
    running: Gauge
    certificate_expiry: Gauge

    @classmethod
    def on(cls, registry: CollectorRegistry) -> ControlMetrics:
        """Registered on `registry`."""
        return cls(
            requests=Counter(
                "penstock_control_requests", "Requests, by route and status", ["route", "status"], registry=registry
            ),
            seconds=Histogram("penstock_control_request_seconds", "Time to answer, by route", ["route"], registry=registry),
            running=Gauge(
                "penstock_control_requests_running", "Requests being served, waiting edges included", registry=registry
            ),
            certificate_expiry=Gauge(
                "penstock_control_certificate_expiry_timestamp_seconds",
                "When the API's certificate runs out; 0 without TLS of its own",
                registry=registry,
            ),
        )
