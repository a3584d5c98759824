"""What a process costs in CPU, in seconds of a machine like the one that the project's figures are from."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES: Final = 3
_TRIES_MOST: Final = 8  # of what must hold a bound: what takes more than it never takes less, however often it is asked
_REFERENCE: Final = "import asyncio, decimal, http.client, json, logging.config, unittest.mock, xml.dom.minidom"
_SECONDS: Final = 0.16


def spent(pid: int) -> float:
    """Seconds, user and system, of a process that lives."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def of(*command: str) -> float:
    """Seconds of a command that ends."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


@cache
def pace() -> float:
    """How many times longer than there the same work takes here; never less than once."""
    return max(1.0, min(of(sys.executable, "-c", _REFERENCE) for _ in range(TRIES)) / _SECONDS)


class Share:
    """Of a time that begins now, how much the processors had for these processes or for nobody, beside what others took.

    What takes long here for want of a processor takes that part of it on a machine of its own.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._since = self._now()

    def left(self) -> float:
        """From 0 to 1."""
        ours, idle, all_of_it = (now - then for now, then in zip(self._now(), self._since, strict=True))
        return min(1.0, (ours + idle) / all_of_it) if all_of_it else 1.0

    def _now(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        guests = times.guest + times.guest_nice  # counted among the others already
        return sum(map(spent, self._pids)), times.idle + times.iowait, sum(times) - guests


def least(measure: Callable[[], float], bound: float) -> float:
    """The least of some tries; no further one once `bound` was held: neighbours on the cores make single ones take longer."""
    took: list[float] = []
    while len(took) < _TRIES_MOST and not (took and min(took) < bound):
        took.append(measure() / pace())
    return min(took)
