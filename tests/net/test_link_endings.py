from __future__ import annotations

from penstock.net.link.endings import Endings


def test_a_closed_stream_that_moves_gets_more_time_and_one_that_stands_still_is_overdue() -> None:
    endings = Endings(close_timeout=10.0, linger=5.0)
    left = {1: 100, 3: 100}
    endings.closing(1, 100, now=0.0)
    endings.closing(3, 100, now=0.0)
    left[1] = 50
    assert endings.overdue(9.0, left.__getitem__) == ([], [])
    assert endings.overdue(10.0, left.__getitem__) == ([3], [])
    endings.forget(3)
    assert endings.overdue(19.0, left.__getitem__) == ([1], [])


def test_a_peer_that_does_not_come_to_its_end_is_overdue() -> None:
    endings = Endings(close_timeout=10.0, linger=5.0)
    endings.lingering(1, now=0.0)
    assert endings.is_lingering(1)
    assert endings.overdue(4.9, lambda _: 0) == ([], [])
    assert endings.overdue(5.0, lambda _: 0) == ([], [1])
    endings.forget(1)
    assert endings.overdue(5.0, lambda _: 0) == ([], [])
