from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.recording import settle

from penstock.net.tasks import Tasks

pytestmark = pytest.mark.anyio


async def forever() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise LookupError("lost and found")


async def test_a_task_runs_and_is_forgotten_when_it_is_done() -> None:
    tasks = Tasks()

    async def answer() -> int:
        return 42

    task = tasks.spawn(answer(), "answer")
    assert len(tasks) == 1
    assert await task == 42
    await settle()
    assert len(tasks) == 0


async def test_a_failure_is_reported_once_and_leaves_the_others_alone() -> None:
    seen: list[tuple[str, BaseException]] = []
    tasks = Tasks(lambda name, exc: seen.append((name, exc)))
    other = tasks.spawn(forever(), "other")
    tasks.spawn(fails(), "search")
    await settle()
    assert [(name, str(exc)) for name, exc in seen] == [("search", "lost and found")]
    assert not other.done()
    await tasks.aclose()
    assert len(seen) == 1


async def test_what_is_kept_is_reported_and_run_again_when_it_fails_and_ends_with_its_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.net.tasks._AGAIN", 0.001)
    seen: list[tuple[str, str]] = []
    lives: list[asyncio.Event] = []

    async def serve() -> None:
        lives.append(asyncio.Event())
        if len(lives) < 3:
            await fails()
        await lives[-1].wait()

    tasks = Tasks(lambda name, exc: seen.append((name, str(exc))))
    task = tasks.keep(serve, "service")
    async with asyncio.timeout(5):
        while len(lives) < 3:
            await asyncio.sleep(0.001)
    assert seen == [("service", "lost and found")] * 2
    await tasks.aclose()
    assert task.cancelled()


async def test_what_is_kept_outlives_a_report_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.net.tasks._AGAIN", 0.001)
    lives = 0

    async def serve() -> None:
        nonlocal lives
        lives += 1
        await fails()

    def say(name: str, exc: BaseException) -> None:
        raise OSError(24, f"{name}: {exc}")

    tasks = Tasks(say)
    task = tasks.keep(serve, "service")
    async with asyncio.timeout(5):
        while lives < 3:
            await asyncio.sleep(0.001)
    await tasks.aclose()
    assert task.cancelled()


async def test_without_a_reader_a_failure_goes_to_the_loop() -> None:
    loop = asyncio.get_running_loop()
    seen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: seen.append(context))
    Tasks().spawn(fails(), "search")
    await settle()
    loop.set_exception_handler(None)
    assert seen[0]["message"] == "background task failed: search"


async def test_closing_cancels_all_and_waits_for_them() -> None:
    tasks = Tasks()
    ended: list[str] = []

    async def slow_to_leave() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            ended.append("left")

    tasks.spawn(slow_to_leave(), "a")
    tasks.spawn(forever(), "b")
    await settle()
    await tasks.aclose()
    assert ended == ["left"]
    assert len(tasks) == 0
    await tasks.aclose()


async def test_nothing_starts_after_the_end() -> None:
    tasks = Tasks()
    await tasks.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        tasks.spawn(forever(), "late")


async def test_a_task_may_close_its_own_owner() -> None:
    tasks = Tasks()
    other = tasks.spawn(forever(), "other")
    closer = tasks.spawn(tasks.aclose(), "closer")
    async with asyncio.timeout(1):
        await closer
    assert other.cancelled()
