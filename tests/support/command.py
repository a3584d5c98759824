"""The `penstock` command as people run it: a process of its own, its exit code and every line it says."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Generator

SECONDS = 45.0  # a cold start with four roles takes 4; a busy CI machine is slower
PENSTOCK = str(Path(sys.executable).with_name("penstock"))


def environment(home: Path, **variables: str) -> dict[str, str]:
    """What a newcomer has: nothing of Penstock's, a home of their own; bytecode is cached, for imports take seconds else."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "TUNNEL_", "PYTHON", "XDG_"))
    }
    return {**kept, "HOME": str(home), **variables}


def run(
    *arguments: str, folder: Path, command: str = PENSTOCK, seconds: float = SECONDS, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run it to its end in `folder`."""
    return subprocess.run(
        [command, *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@dataclass
class Standing:
    """A command that stays until it is told to stop."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _read: queue.Queue[str | None] = field(default_factory=queue.Queue)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def until(self, text: str) -> str:
        """Read on until a line has `text`; that line."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                line = self._read.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{text!r} was not said in time:\n{self.said}") from None
            if line is None:
                raise AssertionError(f"it ended with {self.process.wait()} before it said {text!r}:\n{self.said}")
            self.lines.append(line)
            if text in line:
                return line

    def stop(self, number: signal.Signals) -> int:
        """Send the signal; the exit code, once everything it said is read."""
        self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        while (line := self._read.get(timeout=SECONDS)) is not None:
            self.lines.append(line)
        return code

    def pump(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._read.put(line)
        self._read.put(None)


@contextlib.contextmanager
def standing(*arguments: str, folder: Path, command: str = PENSTOCK, **variables: str) -> Generator[Standing]:
    """Start it in `folder`; killed at the end if it still runs."""
    with subprocess.Popen(
        [command, *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        started = Standing(process)
        reader = threading.Thread(target=started.pump, daemon=True)
        reader.start()
        try:
            yield started
        finally:
            process.kill()
            reader.join(SECONDS)
