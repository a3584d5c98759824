from __future__ import annotations

import gc

from penstock.telemetry.metrics import GC_PAUSE, metrics_page, new_registry
from penstock.telemetry.pauses import PAUSES


def test_the_longest_garbage_collection_is_told() -> None:
    registry = new_registry()
    PAUSES.watch()
    gc.collect()
    longest = registry.get_sample_value(GC_PAUSE)
    assert longest is not None
    assert longest > 0
    assert f"\n{GC_PAUSE} ".encode() in metrics_page(registry)().body


def test_a_collector_that_is_watched_twice_is_watched_once() -> None:
    PAUSES.watch()
    watching = len(gc.callbacks)
    PAUSES.watch()
    assert len(gc.callbacks) == watching
