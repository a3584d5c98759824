from __future__ import annotations

import asyncio
import gc
import io
import json
import sys
import weakref
from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs

from penstock.telemetry.log import configure, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.config.types import Level


class Pipe(io.BytesIO):
    """Standard error as a reader sees it: what has been flushed, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.flushes = 0
        self.seen = b""

    def flush(self) -> None:
        self.flushes += 1
        self.seen = self.getvalue()

    def configure(self, level: Level) -> None:
        """Logs come here from now on; not before, for pytest puts its own standard error between set-up and test."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", io.TextIOWrapper(self))
            configure(level, json=True)
            sys.stderr.detach()

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.seen.splitlines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    settings = structlog.get_config()
    yield Pipe()
    structlog.configure(**settings)


@pytest.mark.parametrize("method", ["info", "warning", "error"])
def test_a_line_is_one_object_with_the_fields_of_its_logger(pipe: Pipe, method: str) -> None:
    pipe.configure("info")
    getattr(get_logger("proxy", route="echo"), method)("request started", request="1.1")
    (line,) = pipe.lines()
    assert line.pop("timestamp")
    assert line == {"role": "proxy", "route": "echo", "event": "request started", "request": "1.1", "level": method}


def test_a_level_silences_what_is_below_it(pipe: Pipe) -> None:
    pipe.configure("warn")
    get_logger("proxy").info("quiet")
    get_logger("proxy").warning("loud")
    assert [line["event"] for line in pipe.lines()] == ["loud"]


@pytest.mark.anyio
async def test_the_lines_of_one_turn_of_the_loop_leave_together_and_in_order(pipe: Pipe) -> None:
    pipe.configure("info")
    log = get_logger("proxy")
    flushed = pipe.flushes
    for number in range(3):
        log.info("one", number=number)
    assert not pipe.seen
    await asyncio.sleep(0)
    assert [line["number"] for line in pipe.lines()] == [0, 1, 2]
    assert pipe.flushes == flushed + 1
    log.warning("two")
    await asyncio.sleep(0)
    assert pipe.lines()[-1]["event"] == "two"


def test_a_loop_that_ended_before_it_flushed_does_not_silence_the_next(pipe: Pipe) -> None:
    pipe.configure("info")
    log = get_logger("proxy")
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.call_soon(log.info, "last words")
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
    log.info("after")
    assert [line["event"] for line in pipe.lines()] == ["last words", "last words", "after"]


@pytest.mark.anyio
async def test_what_is_no_unicode_costs_neither_its_line_nor_its_neighbours(pipe: Pipe) -> None:
    pipe.configure("info")
    log = get_logger("proxy")
    log.info("before")
    log.info("file", path="caf\udce9")
    log.warning("file", path="caf\udce9")
    await asyncio.sleep(0)
    assert [line["level"] for line in pipe.lines()] == ["info", "info", "warning"]
    assert [line["path"] for line in pipe.lines()[1:]] == ["caf\udce9"] * 2


@pytest.mark.anyio
@pytest.mark.parametrize("bad", [{("a",): 1}, {1: {2: 3}, "b": {("c",)}}])
async def test_a_line_that_cannot_be_made_is_said_in_another_way_and_costs_no_other(
    pipe: Pipe, bad: dict[object, object]
) -> None:
    pipe.configure("info")
    log = get_logger("proxy")
    log.info("before")
    log.info("odd", value=bad)
    log.warning("odd", value=bad)
    log.info("after")
    await asyncio.sleep(0)
    assert [line["event"] for line in pipe.lines()] == ["before", "odd", "odd", "after"]


@pytest.mark.anyio
async def test_settings_that_change_lose_no_line_and_leave_nothing_behind(pipe: Pipe) -> None:
    pipe.configure("info")
    before = get_logger("proxy")
    before.info("one")
    pipe.configure("info")
    replaced = weakref.ref(structlog.get_config()["logger_factory"])
    pipe.configure("info")
    gc.collect()
    assert replaced() is None
    before.info("two")
    await asyncio.sleep(0)
    assert [line["event"] for line in pipe.lines()] == ["one", "two"]


@pytest.mark.anyio
async def test_a_turn_that_says_a_lot_does_not_hold_it_all(pipe: Pipe) -> None:
    pipe.configure("info")
    log = get_logger("proxy")
    for number in range(1000):
        log.info("one", number=number)
    assert len(pipe.lines()) > 500
    await asyncio.sleep(0)
    assert [line["number"] for line in pipe.lines()] == list(range(1000))


def test_a_test_may_capture_the_quick_lines_too(pipe: Pipe) -> None:
    pipe.configure("info")
    log = get_logger("proxy")
    with capture_logs() as captured:
        log.info("seen", request="1.1")
    assert captured[0]["request"] == "1.1"
    assert not pipe.lines()
