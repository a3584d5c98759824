"""What an agent counts, and its `/ready` page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock.telemetry.health import Page

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from penstock.telemetry.health import Render


@dataclass(frozen=True, slots=True)
class AgentMetrics:
    """The counters and gauges of one agent."""

    links: Gauge
    live: Gauge
    streams: Counter
    tries: Counter
    relayed: Counter

    @classmethod
    def on(cls, registry: CollectorRegistry) -> AgentMetrics:
        """Registered on `registry`."""
        return cls(
            links=Gauge("penstock_agent_links", "Registered links", registry=registry),
            live=Gauge("penstock_agent_streams", "Streams being relayed", registry=registry),
            streams=Counter("penstock_agent_streams_opened", "Streams, by outcome", ["outcome"], registry=registry),
            tries=Counter("penstock_agent_link_tries", "Links dialled, by outcome", ["outcome"], registry=registry),
            relayed=Counter("penstock_agent_relayed_bytes", "Bytes relayed", ["direction"], registry=registry),
        )


def ready_page(connector_id: UUID, registered: Callable[[], int]) -> Render:
    """`/ready` as cloudflared has it: 200 with one link or more, else 503, and the same JSON."""

    def render() -> Page:
        links = registered()
        status = 200 if links else 503
        body = {"status": status, "readyConnections": links, "connectorId": str(connector_id)}
        return Page(status, json.dumps(body, separators=(",", ":")).encode(), "application/json")

    return render
