"""What an edge counts. Never a host or a path: those are the callers' business."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge


@dataclass(frozen=True, slots=True)
class EdgeMetrics:
    """The counters and gauges of one edge."""

    links: Gauge
    callers: Gauge
    streams: Gauge
    opened: Counter
    waiting: Gauge
    held: Counter
    registrations: Counter
    relayed: Counter
    cut: Counter
    displaced: Counter
    feed_version: Gauge
    feed_interrupted: Gauge
    certificate_expiry: Gauge

    @classmethod
    def on(cls, registry: CollectorRegistry) -> EdgeMetrics:
        """Registered on `registry`."""
        return cls(
            links=Gauge("penstock_edge_links", "Registered agent links", registry=registry),
            callers=Gauge("penstock_edge_callers", "Caller connections waiting for a decision", registry=registry),
            streams=Gauge("penstock_edge_streams", "Streams being relayed", registry=registry),
            opened=Counter("penstock_edge_streams_opened", "Streams asked for, by outcome", ["outcome"], registry=registry),
            waiting=Gauge("penstock_edge_held_callers", "Callers that wait for an agent to return", registry=registry),
            held=Counter(
                "penstock_edge_streams_held",
                "Streams that waited for an agent to return, by outcome",
                ["outcome"],
                registry=registry,
            ),
            registrations=Counter(
                "penstock_edge_registrations", "Registrations of links, by outcome", ["outcome"], registry=registry
            ),
            relayed=Counter("penstock_edge_relayed_bytes", "Bytes relayed", ["direction"], registry=registry),
            cut=Counter(
                "penstock_edge_streams_cut", "Streams that the edge itself cut, by reason", ["reason"], registry=registry
            ),
            displaced=Counter(
                "penstock_edge_displaced", "Connections cut before they said anything, to make room", registry=registry
            ),
            feed_version=Gauge("penstock_edge_feed_version", "Version of the directory in force", registry=registry),
            feed_interrupted=Gauge(
                "penstock_edge_feed_interrupted", "1 while the control plane is not heard", registry=registry
            ),
            certificate_expiry=Gauge(
                "penstock_edge_certificate_expiry_timestamp_seconds", "When the edge's certificate runs out", registry=registry
            ),
        )
