"""Whether something listens on the agent's local target: said before a caller would be the first to find out."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Final

from penstock.errors import UnavailableError
from penstock.net.dial import dial_tcp

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_EVERY: Final = 30.0  # seconds: a connection that is closed at once costs the proxy nothing, and no log is filled with them
_AGAIN: Final = 3.0  # after a look in vain: the proxy may be starting beside the agent, or be started again
_TIMEOUT: Final = 2.0
_OURS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # tell nothing of the target


class Target:
    """The proxy's address, as the log has it: one line when nobody is there, one when somebody is again."""

    def __init__(self, host: str, port: int, log: FilteringBoundLogger) -> None:
        self._host, self._port = host, port
        self._log = log
        self._missed = 0

    async def watch(self) -> None:
        """Look, for ever."""
        while True:
            self._note(await self._why_not())
            await asyncio.sleep(_AGAIN if self._missed else _EVERY)

    def _note(self, why: str | None) -> None:
        place = f"{self._host}:{self._port}"
        if why is None:
            if self._missed > 1:
                self._log.info("local target answers", target=place)
            self._missed = 0
            return
        self._missed += 1
        if self._missed == 2:  # the second time: once may be a start
            self._log.warning(
                "local target does not answer",
                target=place,
                reason=why,
                hint="callers get 502 until it does: start the proxy, or set --url to where it listens",
            )

    async def _why_not(self) -> str | None:
        try:
            transport = await dial_tcp(self._host, self._port, timeout=_TIMEOUT)
        except UnavailableError as exc:
            is_ours = isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _OURS
            return None if is_ours else exc.detail or exc.public
        transport.close()
        return None
