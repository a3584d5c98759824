from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.net.backoff import Backoff


def test_the_ceiling_doubles_up_to_the_cap_and_starts_again_after_a_success() -> None:
    backoff = Backoff(lambda: 0.5, base=1, cap=10)
    assert [backoff.next() for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]
    assert backoff.tries == 6
    backoff.reset()
    assert backoff.next() == 0.5


@given(st.integers(0, 200), st.integers())
def test_every_wait_is_between_the_floor_and_the_ceiling(tries: int, seed: int) -> None:
    backoff = Backoff(random.Random(seed).random, base=0.5, cap=30, floor=0.1)
    for _ in range(tries):
        assert 0.1 <= min(backoff.ceiling, 30) <= 30
        assert 0.1 <= backoff.next() <= 30


def test_many_clients_come_back_spread_out() -> None:
    source = random.Random(7)
    waits = sorted(Backoff(source.random, base=8, cap=8).next() for _ in range(1000))
    for quarter in range(4):
        within = sum(1 for wait in waits if quarter * 2 <= wait < quarter * 2 + 2)
        assert 180 < within < 320


@pytest.mark.parametrize("settings", [{"base": 0}, {"base": 2, "cap": 1}, {"factor": 0.5}, {"floor": -1}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="backoff"):
        Backoff(lambda: 0.0, **settings)
