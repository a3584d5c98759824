"""Prometheus metrics: one registry a role instance, so that several roles live in one process without meeting."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from penstock.telemetry.health import Page, Render
from penstock.telemetry.pauses import PAUSES

GC_PAUSE = "penstock_gc_pause_max_seconds"


def new_registry() -> CollectorRegistry:
    """A registry with the process's own figures (memory, descriptors, CPU, collections)."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    longest = Gauge(GC_PAUSE, "The longest garbage collection since the role has started", registry=registry)
    longest.set_function(lambda: PAUSES.longest)
    return registry


def metrics_page(registry: CollectorRegistry) -> Render:
    """Renders `/metrics`."""
    return lambda: Page(200, generate_latest(registry), CONTENT_TYPE_LATEST)
