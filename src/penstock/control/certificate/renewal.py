"""Keeps the certificate in the folder good: obtained when there is none, or not for these names; renewed ahead.

Of the processes on a folder the one that holds its lock does this; the others look now and then whether it still does.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from penstock.control.certificate.order import obtain
from penstock.errors import PenstockError, UnavailableError
from penstock.net.backoff import Backoff
from penstock.telemetry.log import get_logger
from penstock.tls import certs, contexts, names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cryptography.x509 import Certificate

    from penstock.control.certificate.folder import AcmeFolder
    from penstock.control.config import Acme

LOOK: Final = 3600.0  # seconds; a longer sleep would believe a clock that may be set meanwhile
LOCK_LOOK: Final = 60.0  # how soon another process takes over from one that ended
LONGEST_WAIT: Final = 6 * 3600.0  # between tries: twice a working day, and over a hundred in the last 30 days of a certificate


class Renewal:
    """One folder's. `changed` is awaited after each new certificate."""

    def __init__(
        self, settings: Acme, wanted: Sequence[str], folder: AcmeFolder, changed: Callable[[], Awaitable[None]]
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._folder = folder
        self._changed = changed
        self._log = get_logger("control")
        self._backoff = Backoff(
            random.random,  # spreads load; nothing is hidden behind it
            base=settings.retry_interval,
            cap=max(LONGEST_WAIT, settings.retry_interval),
            floor=settings.retry_interval / 10,
        )
        self.failure: PenstockError | None = None
        """Why the last try came to nothing."""

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                wait = await self._step()
                await asyncio.sleep(wait)
        finally:
            self._folder.release()

    async def _step(self) -> float:
        """Renew if it is time to, and it is this process that does; the seconds until the next look."""
        try:
            if not await asyncio.to_thread(self._folder.take_lock):
                return LOCK_LOOK
            present = await asyncio.to_thread(self._present)
            wait = seconds_left(present, self._wanted, self._settings.renew_before, datetime.now(UTC))
            if wait > 0:
                return min(wait, LOOK)
            pair = await obtain(self._settings, self._wanted, self._folder)
            await asyncio.to_thread(self._folder.keep, pair)
        except OSError as exc:
            unwritable = UnavailableError("the certificate cannot be kept", detail=str(exc), hint="data_dir must be writable")
            return self._failed(unwritable)
        except PenstockError as exc:
            return self._failed(exc)
        self.failure = None
        self._backoff.reset()
        expires = certs.load_bundle(pair.certificate_pem)[0].not_valid_after_utc
        self._log.info("certificate obtained", names=list(self._wanted), certificate_expires=expires.isoformat())
        await self._changed()
        return self._settings.retry_interval / 10  # an authority whose certificates are born old is not asked in a loop

    def _present(self) -> Certificate | None:
        if not self._folder.pair_file.exists():
            return None
        pem = contexts.read_pem(self._folder.pair_file)
        try:
            return certs.load_bundle(pem)[0]
        except PenstockError:
            return None  # spoiled: a new one is made in its place

    def _failed(self, error: PenstockError) -> float:
        self.failure = error
        wait = self._backoff.next()
        self._log.error(
            "certificate not obtained", error=error.public, detail=error.detail, hint=error.hint, next_try_seconds=round(wait)
        )
        return wait


def seconds_left(present: Certificate | None, wanted: Sequence[str], renew_before: float, now: datetime) -> float:
    """Until it is time for a new certificate; 0 when it is."""
    if present is None or not set(wanted) <= names.dns_names(present):
        return 0.0
    life = present.not_valid_after_utc - present.not_valid_before_utc
    return max(0.0, (present.not_valid_after_utc - life * renew_before - now).total_seconds())
