from __future__ import annotations

import asyncio

import pytest

from penstock.proxy.deadline import Deadline

pytestmark = pytest.mark.anyio


async def test_it_passes_once_after_the_last_set() -> None:
    loop = asyncio.get_running_loop()
    passed = asyncio.Event()
    calls: list[float] = []

    def call() -> None:
        calls.append(loop.time())
        passed.set()

    deadline = Deadline(loop, call)
    began = loop.time()
    deadline.set(0.02)
    deadline.set(0.06)
    await asyncio.wait_for(passed.wait(), 5)
    assert calls[0] - began >= 0.06
    deadline.close()


async def test_an_earlier_one_replaces_a_later_one() -> None:
    loop = asyncio.get_running_loop()
    passed = asyncio.Event()
    deadline = Deadline(loop, passed.set)
    deadline.set(600)
    deadline.set(0.01)
    await asyncio.wait_for(passed.wait(), 5)
    deadline.close()


@pytest.mark.parametrize("how", ["clear", "zero", "close"])
async def test_what_was_called_off_does_not_pass(how: str) -> None:
    loop = asyncio.get_running_loop()
    calls: list[int] = []
    deadline = Deadline(loop, lambda: calls.append(1))
    deadline.set(0.01)
    if how == "clear":
        deadline.clear()
    elif how == "zero":
        deadline.set(0)
    else:
        deadline.close()
        deadline.set(0.01)
    other = asyncio.Event()
    loop.call_later(0.05, other.set)
    await asyncio.wait_for(other.wait(), 5)
    assert not calls
    deadline.close()


async def test_moving_it_costs_no_timer() -> None:
    class CountingLoop:
        def __init__(self) -> None:
            self.timers = 0

        def time(self) -> float:
            return 0.0

        def call_at(self, when: float, call: object) -> asyncio.TimerHandle:
            self.timers += 1
            return asyncio.get_running_loop().call_at(asyncio.get_running_loop().time() + 60, lambda: None)

    loop = CountingLoop()
    deadline = Deadline(loop, lambda: None)  # type: ignore[arg-type]
    for _ in range(100):
        deadline.set(1e9)
        deadline.clear()
    assert loop.timers == 1
    deadline.close()
