"""Prometheus metrics: one registry a role instance, so that several roles live in one process without meeting."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from penstock.telemetry.health import Page, Render


def new_registry() -> CollectorRegistry:
    """A registry with the process's own figures (memory, descriptors, CPU, collections)."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def metrics_page(registry: CollectorRegistry) -> Render:
    """Renders `/metrics`."""
    return lambda: Page(200, generate_latest(registry), CONTENT_TYPE_LATEST)
