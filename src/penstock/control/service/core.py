"""What every service works with: the settings, the store, the vault, the clock and the dice."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from penstock import ids
from penstock.control.auth.attempts import Attempts
from penstock.control.federation.fetch import Fetch
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.control.config import ControlConfig
    from penstock.control.storage.database import Database
    from penstock.control.storage.vault import Vault


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Core:
    """Passed to every service function; tests replace the clock."""

    config: ControlConfig
    database: Database
    vault: Vault
    now: Callable[[], datetime] = field(default=_utc_now)
    entropy: Callable[[int], bytes] = field(default=os.urandom)
    attempts: Attempts = field(default_factory=Attempts)
    fetch: Fetch = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fetch", Fetch(self.config.federation))

    def new_id(self, prefix: str) -> str:
        """A fresh public id."""
        return ids.make(prefix, self.entropy(16))

    def new_serial(self) -> int:
        """A fresh certificate serial number."""
        return certs.serial_number(self.entropy(16))
