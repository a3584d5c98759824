"""Whether the store answers, looked at on a schedule: probes are answered at once and cost the database nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from penstock.control.errors import ApiError
from penstock.control.service.bootstrap import is_initialized
from penstock.net.tasks import Tasks
from penstock.telemetry.log import get_logger

if TYPE_CHECKING:
    from penstock.control.service.core import Core

_INTERVAL: Final = 2.0
_PATIENCE: Final = 3.0  # with the interval the bound on how long a probe says ready of a store that is gone
_SILENT: Final = "the database does not answer"


@final
class Readiness:
    """One for a control process; `watch` runs as long as it serves."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._log = get_logger("control")
        self.why_not: str | None = None
        """None while the store answers; at first it has just been opened."""

    async def watch(self) -> None:
        """Look again and again, for ever."""
        looks = Tasks()
        look: asyncio.Task[str | None] | None = None
        try:
            while True:
                await asyncio.sleep(_INTERVAL)
                # Not cancelled when it takes too long: a driver in the middle of an answer is left in a state of its own.
                look = looks.spawn(self._look(), "look at the database")
                await asyncio.wait({look}, timeout=_PATIENCE)
                self._tell(look.result() if look.done() else _SILENT)
                await asyncio.wait({look})
        finally:
            if look is not None:
                await asyncio.wait({look}, timeout=_PATIENCE)
            await looks.aclose()

    async def _look(self) -> str | None:
        try:
            async with self._core.database.read() as connection:
                return None if await is_initialized(connection) else "the database is not initialized"
        except ApiError:
            return _SILENT

    def _tell(self, why_not: str | None) -> None:
        if why_not != self.why_not:
            self._log.warning("readiness", ready=why_not is None, reason=why_not)
        self.why_not = why_not
