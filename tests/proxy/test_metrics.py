from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from penstock.proxy.metrics import ProxyMetrics


def test_a_routes_counts_are_samples_as_prometheus_takes_them() -> None:
    registry = CollectorRegistry()
    metrics = ProxyMetrics(registry)
    for seconds in (0.002, 0.003, 1000.0):
        metrics.row("echo").request_ended(200, seconds, received=10, sent=20)
    metrics.row(None).request_ended(502, 0.1, received=0, sent=0)
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'penstock_proxy_requests_total{route="echo",status="200"} 3.0',
        'penstock_proxy_requests_total{route="none",status="502"} 1.0',
        'penstock_proxy_request_seconds_bucket{le="0.002",route="echo"} 1.0',
        'penstock_proxy_request_seconds_bucket{le="0.005",route="echo"} 2.0',
        'penstock_proxy_request_seconds_bucket{le="300.0",route="echo"} 2.0',
        'penstock_proxy_request_seconds_bucket{le="+Inf",route="echo"} 3.0',
        'penstock_proxy_request_seconds_count{route="echo"} 3.0',
        'penstock_proxy_request_seconds_sum{route="echo"} 1000.005',
        'penstock_proxy_body_bytes_total{direction="request",route="echo"} 30.0',
        'penstock_proxy_body_bytes_total{direction="response",route="echo"} 60.0',
    ):
        assert line in lines


def test_no_other_metric_may_take_a_routes_name() -> None:
    registry = CollectorRegistry()
    ProxyMetrics(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        ProxyMetrics(registry)
