"""The change feed as the rest of the edge sees it: the newest directory, how old it is, and a way to wait for a newer one.

Pages, whole or a delta, are believed for their signature alone, whoever delivered them, disk included. A version is never
lowered, so that nobody can bring a revoked caller back by replaying an older page, and a delta is taken on the very state that
it was made for. That a page is still the newest is signed too, each time anew, so that nobody can keep a revocation back for
longer than `stale_limit`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from penstock.edge.directory import NOTHING, Directory
from penstock.errors import IdentityError
from penstock.schema.edges import DELTA_CONTEXT, SNAPSHOT_CONTEXT, Delta, Snapshot, fresh_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock.edge.state import StoredPage

_Page = TypeVar("_Page", Snapshot, Delta)


def verified_snapshot(key: bytes, stored: StoredPage) -> Snapshot:
    """The snapshot inside `stored` if `key` (raw Ed25519) signed exactly these bytes; IdentityError otherwise."""
    return _verified(key, stored, SNAPSHOT_CONTEXT, Snapshot, "snapshot")


def verified_delta(key: bytes, stored: StoredPage) -> Delta:
    """The delta inside `stored`, likewise."""
    return _verified(key, stored, DELTA_CONTEXT, Delta, "delta")


def _verified(key: bytes, stored: StoredPage, context: bytes, kind: type[_Page], name: str) -> _Page:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(stored.signature, context + stored.body)
    except InvalidSignature:
        raise IdentityError(
            f"a {name} is not signed by this edge's control plane",
            hint="something between edge and control changes answers, or control was set up anew: enrol this edge again",
        ) from None
    try:
        return kind.model_validate_json(stored.body)
    except ValidationError as exc:
        raise IdentityError(f"a signed {name} cannot be read", detail=f"{exc.error_count()} wrong fields") from None


def check_fresh(key: bytes, signature: bytes, version: int, nonce: str) -> None:
    """IdentityError unless `key` signed that nothing was newer than `version` when it was asked with `nonce`."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, fresh_message(version, nonce))
    except InvalidSignature:
        raise IdentityError(
            "an answer of the feed is not this edge's control plane's, or not of now",
            hint="something between edge and control keeps answers back or changes them, or control is older than this edge",
        ) from None


class Feed:
    """Holds the newest directory, and tells it."""

    def __init__(
        self,
        *,
        stale_limit: float,
        clock: Callable[[], float],
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.directory: Directory = NOTHING
        self.confirmed_at: float | None = None
        self.is_interrupted = True
        """Whether control's last word is missing: what is not in the directory may only be newer than it."""
        self.floor = -1
        """What no version may be below, whatever the disk gave back: the highest that was ever held."""
        self._stale_limit = stale_limit
        self._clock = clock
        self._on_error = on_error
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[Directory, Directory], None]] = []

    @property
    def version(self) -> int:
        """The version held; -1 before the first."""
        return self.directory.version

    @property
    def is_stale(self) -> bool:
        """Whether control has been silent for so long that what is held decides nothing new."""
        return self.confirmed_at is None or self._clock() - self.confirmed_at > self._stale_limit

    def listen(self, on_change: Callable[[Directory, Directory], None]) -> None:
        """Call `on_change(old, new)` for every newer directory, behind those that listen already. What it raises is its own
        matter: it goes to `on_error`, and keeps the news from nobody.
        """
        self._listeners.append(on_change)

    def confirm(self, at: float) -> None:
        """Control vouched at `at` for what is held."""
        self.confirmed_at = max(at, self.confirmed_at or at)

    def accept(self, key: bytes, stored: StoredPage, is_current: Callable[[int], None] = lambda _: None) -> bool:
        """Take over a snapshot: True when it is newer than what is held. IdentityError when it may not be believed.

        is_current: raises IdentityError where its version is not known to be the newest now; a page of the disk need not be.
        """
        snapshot = verified_snapshot(key, stored)
        is_current(snapshot.version)
        return self._take(Directory.of(snapshot), stored.confirmed_at)

    def accept_delta(self, key: bytes, stored: StoredPage, is_current: Callable[[int], None]) -> None:
        """Take over what changed since what is held. IdentityError as for a snapshot, and where it is for another state."""
        delta = verified_delta(key, stored)
        is_current(delta.version)
        self._take(self.directory.after(delta), stored.confirmed_at)

    def restore(self, key: bytes, stored: StoredPage, deltas: Iterable[StoredPage]) -> None:
        """Take over what the disk kept: a snapshot, and the deltas since. IdentityError where one does not follow."""
        whole = Directory.of(verified_snapshot(key, stored))
        since = (verified_delta(key, kept) for kept in deltas)
        # Those that are no newer are older than the snapshot: saving was cut short.
        directory = whole.after(*(delta for delta in since if delta.version > whole.version))
        self._take(directory, stored.confirmed_at)

    def _take(self, directory: Directory, confirmed_at: float) -> bool:
        if directory.version < max(self.version, self.floor):
            raise IdentityError(
                "the control plane's feed went backwards",
                detail=f"version {directory.version} after {max(self.version, self.floor)}",
                hint="control was restored from a backup, or an old page is replayed; remove the state folder and enrol again",
            )
        self.confirm(confirmed_at)
        if directory.version == self.version:
            return False
        old, self.directory = self.directory, directory
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for listener in self._listeners:
            self._tell(listener, old)
        return True

    def _tell(self, listener: Callable[[Directory, Directory], None], old: Directory) -> None:
        try:
            listener(old, self.directory)
        except Exception as exc:
            if self._on_error is None:
                raise
            self._on_error("feed listener", exc)

    async def wait_until(self, holds: Callable[[Directory], bool], timeout: float) -> bool:
        """Whether `holds` comes to be true of the directory within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not holds(self.directory):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
