"""The edge follows the feed for as long as it lives.

The control plane away means only that nothing new is learned: what is held goes on deciding until `stale_limit`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from typing import TYPE_CHECKING, Final

from penstock.edge import pages
from penstock.edge.control import UnknownEdgeError
from penstock.edge.state import StoredPage
from penstock.errors import IdentityError, PenstockError, UnavailableError
from penstock.net.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from penstock.edge.control import ControlPlane
    from penstock.edge.directory import Directory
    from penstock.edge.feed import Feed
    from penstock.edge.kept import Kept
    from penstock.edge.state import EdgeIdentity

_WAIT: Final = 25  # seconds a long poll stays: below the 30 s at which common proxies cut
_UNKNOWN_BASE: Final = 5.0  # seconds; control that no longer knows an edge rarely learns of it again (from a backup)
_UNKNOWN_CAP: Final = 60.0
_FIRST_PULL: Final = 5.0  # seconds a restart waits for news before it goes on with what is on disk
_ANY: Final = -1  # older than every version


class Follower:
    """Keeps one feed fed.

    What changed comes as a delta. Where one cannot be taken the whole is asked for, and so it is when those on disk have become
    many, or a restart would read them for long.
    """

    def __init__(
        self,
        control: ControlPlane,
        kept: Kept,
        feed: Feed,
        log: FilteringBoundLogger,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._control = control
        self._kept = kept
        self._feed = feed
        self._log = log
        self._clock = clock
        self._is_whole_wanted = False
        self.is_unknown = False
        """Control answers, and refuses this edge's credential."""
        self._is_doubted = False
        self._poll: asyncio.Timeout | None = None

    async def catch_up(self, identity: EdgeIdentity) -> None:
        """What is on disk, then what is new if control answers soon; without either the edge starts, and is not ready."""
        stored = await self._kept.load()
        self._feed.floor = stored.version
        if stored.snapshot is not None:
            try:
                held = await asyncio.to_thread(pages.restored, identity.feed_key, stored.snapshot, stored.deltas)
                self._feed.take(held, stored.snapshot.confirmed_at)
            except IdentityError as exc:
                self._log.warning("stored snapshot dropped", reason=exc.public, detail=exc.detail)
        try:
            async with asyncio.timeout(_FIRST_PULL):
                await self._pull(identity, wait=0)
        except (TimeoutError, PenstockError) as exc:
            self._log.warning("control plane does not answer", reason=_public(exc), version=self._feed.version)

    async def follow(self, identity: EdgeIdentity) -> None:
        """Long polls, one after the other, for ever."""
        random = secrets.SystemRandom().random
        away = Backoff(random, base=0.2, cap=2.0)  # 5 s is what a revocation may take
        unknown = Backoff(random, base=_UNKNOWN_BASE, cap=_UNKNOWN_CAP, floor=1.0)
        while True:
            try:
                await self._next(identity)
                self.is_unknown = False
                away.reset()
                unknown.reset()
            except PenstockError as exc:
                self._feed.is_interrupted = True
                self.is_unknown = isinstance(exc, UnknownEdgeError)
                waits = unknown if self.is_unknown else away
                self._is_doubted = False
                self._log.warning("feed interrupted", reason=exc.public, detail=exc.detail, hint=exc.hint)
                await asyncio.sleep(waits.next())
            except Exception:
                self._feed.is_interrupted = True
                raise  # to who began this, which begins it again

    def doubt(self) -> None:
        """Control does not answer on another connection: what a poll waits on may be dead, too, and is tried anew.

        Once; a doubt that proved wrong is not raised again before a poll has run its time.
        """
        if self._poll is not None and not self._is_doubted:
            self._is_doubted = self._feed.is_interrupted = True
            self._poll.reschedule(asyncio.get_running_loop().time())

    async def _next(self, identity: EdgeIdentity) -> None:
        """One poll: a long one, or while the feed is interrupted a short one, which says at once whether it still is."""
        if self._feed.is_interrupted:
            await self._pull(identity, wait=0)
            return
        try:
            async with asyncio.timeout(None) as self._poll:
                await self._pull(identity, wait=math.ceil(min(_WAIT, self._kept.due_in)))
            self._is_doubted = False
        except TimeoutError:
            return  # in doubt
        finally:
            self._poll = None

    def _asked(self) -> dict[str, str | int]:
        """What is asked for: all there is, what is newer than what is held, or of that only what changed."""
        if self._kept.due_in <= 0:
            return {"after": _ANY}
        directory = self._feed.directory
        asked: dict[str, str | int] = {"after": directory.version}
        if directory.mark and not self._is_whole_wanted and not self._kept.is_long:
            asked["delta"] = directory.mark
        return asked

    async def _pull(self, identity: EdgeIdentity, *, wait: int) -> None:
        """One request: what is newer than what is held, or the word that nothing is."""
        nonce = secrets.token_hex(16)
        held = self._feed.version
        asked = self._asked()
        self._is_whole_wanted = True  # unless this brings what is asked for
        told = await self._control.news(identity, {**asked, "nonce": nonce}, wait)
        self._poll = None  # what was brought is also kept, whole
        now = self._clock()
        if told.body is not None:
            page = StoredPage(told.body, told.signature, now)
            directory = await asyncio.to_thread(self._read, identity.feed_key, page, is_delta=told.is_delta)
            pages.check_fresh(identity.feed_key, told.fresh, directory.version, nonce)
            if self._feed.take(directory, now):
                self._log.info("feed advanced", version=directory.version)
            await (self._kept.delta if told.is_delta else self._kept.whole)(page, directory.version)
        elif asked["after"] == held:
            pages.check_fresh(identity.feed_key, told.fresh, held, nonce)
            self._feed.confirm(now)
            await self._kept.confirm(now)
        else:
            raise UnavailableError("the control plane does not give the feed", detail="status 204")
        self._is_whole_wanted = self._feed.is_interrupted = False

    def _read(self, key: bytes, page: StoredPage, *, is_delta: bool) -> Directory:
        return pages.changed(key, page, self._feed.directory) if is_delta else pages.whole(key, page)


def _public(exc: BaseException) -> str:
    return exc.public if isinstance(exc, PenstockError) else "timed out"
