from __future__ import annotations

import pytest

from penstock.agent.config import AgentLimits
from penstock.agent.slots import Outcome, Slot

LIMITS = AgentLimits(backoff_first=1.0, backoff_most=8.0, refused_wait=60.0)


def slot(*, random: float = 0.999_999) -> Slot:
    return Slot(0, LIMITS, lambda: random)


def test_the_ceiling_of_the_waits_doubles_up_to_the_most() -> None:
    one = slot()
    waits = [one.wait_after(Outcome.UNREACHABLE) for _ in range(6)]
    assert waits == pytest.approx([1, 2, 4, 8, 8, 8], rel=1e-3)


def test_waits_are_drawn_from_zero_up_but_never_spin() -> None:
    assert 0 < slot(random=0.0).wait_after(Outcome.UNREACHABLE) < 0.1


def test_a_refused_token_is_tried_slowly_from_the_start_and_never_sooner_than_the_edge_asks() -> None:
    assert slot(random=0.0).wait_after(Outcome.REFUSED) == 30.0
    assert slot().wait_after(Outcome.REFUSED) == pytest.approx(60.0, rel=1e-3)
    assert slot(random=0.0).wait_after(Outcome.REFUSED, retry_after=300.0) == 300.0


def test_a_link_that_lasted_begins_its_waits_anew_and_one_that_fell_at_once_does_not() -> None:
    lasted, fell = slot(), slot()
    for one in (lasted, fell):
        for _ in range(3):
            one.wait_after(Outcome.UNREACHABLE)
    assert lasted.wait_after(Outcome.LOST, lasted=60.0) == pytest.approx(1.0, rel=1e-3)
    assert fell.wait_after(Outcome.LOST, lasted=0.1) == pytest.approx(8.0, rel=1e-3)


def test_the_tries_since_the_last_registration_are_counted() -> None:
    one = slot()
    one.wait_after(Outcome.UNREACHABLE)
    one.wait_after(Outcome.REFUSED)
    assert one.attempts == 2
    one.wait_after(Outcome.LOST)
    assert one.attempts == 0
