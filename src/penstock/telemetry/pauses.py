"""How long garbage collections take: while one runs, the loop and every stream on it stand still."""

from __future__ import annotations

import gc
import time


class Pauses:
    """The collections of this process from `watch` on; `longest` is in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = 0.0

    def watch(self) -> None:
        """Count from now on: a role calls it once it has started, for what it collects before that holds nobody up."""
        self.longest = 0.0
        if self._note not in gc.callbacks:
            gc.callbacks.append(self._note)

    def _note(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.longest = max(self.longest, time.perf_counter() - self._began)


PAUSES = Pauses()
"""One a process, as the collector is."""
