"""Looks at the files of a running proxy, and puts what changed into use: all of it or nothing.

Files are polled and compared by content. That sees what notices of the system miss: the symbolic links that Kubernetes
swaps, bind mounts, network file systems. What is being written is looked at twice before it counts, for half a settings
file can be a valid one with half the routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from penstock.config.pem import read_pair
from penstock.errors import PenstockError
from penstock.proxy.live import Live, files_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from penstock.proxy.config import ProxyConfig
    from penstock.proxy.guard import LookUp
    from penstock.tls.certs import KeyPair

_SETTLE: Final = 0.3  # longer than an editor or a script takes between truncating a file and closing it


@dataclass(frozen=True, slots=True)
class Source:
    """Where a proxy's settings came from.

    read: reads them again (it blocks); ConfigError when they are wrong. file: watched for changes, or None when only a
    signal asks. adopted: told of settings that are in use from now on.
    """

    read: Callable[[], ProxyConfig]
    file: Path | None = None
    adopted: Callable[[ProxyConfig], None] = lambda _: None


class Running(Protocol):
    """The proxy, as its reload sees it."""

    @property
    def live(self) -> Live:
        """What holds now."""
        ...

    def adopt(self, live: Live) -> None:
        """Let this hold from now on."""
        ...

    def refused(self, what: str, error: PenstockError) -> None:
        """What is in the files is not taken: `what` is `certificate` or `config`."""
        ...


class Reload:
    """Polls, and comes at once when `ask` is called."""

    def __init__(self, proxy: Running, source: Source | None, lookup: LookUp) -> None:
        self._proxy = proxy
        self._source = source
        self._lookup = lookup
        self._asked = asyncio.Event()
        self._config_seen = b""  # digest of what was taken
        self._refused: dict[str, object] = {}  # what was told already, by `certificate` and `config`

    def ask(self) -> None:
        """Look now, and tell even when nothing has changed."""
        self._asked.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._proxy.live.config.reload_interval):
                    await self._asked.wait()
            is_asked = self._asked.is_set()
            self._asked.clear()
            if is_asked:
                self._refused.clear()
            await self._look_at_certificate()
            if self._source is not None and (is_asked or self._source.file is not None):
                await self._look_at_config(self._source, is_asked=is_asked)

    async def _look_at_certificate(self) -> None:
        pair = await self._settled_pair()
        if pair is None or pair == self._proxy.live.identity.pair:
            self._refused.pop("certificate", None)
            return
        if isinstance(pair, PenstockError):
            self._refuse("certificate", pair, pair.public)
            return
        try:
            live = await asyncio.to_thread(self._proxy.live.with_pair, pair)
        except PenstockError as exc:
            self._refuse("certificate", exc, pair)
            return
        self._refused.pop("certificate", None)
        self._proxy.adopt(live)

    async def _settled_pair(self) -> KeyPair | PenstockError | None:
        """The pair in the files, or why there is none; None while they are being written."""
        first = await asyncio.to_thread(_read_pair, self._proxy.live.config)
        if first == self._proxy.live.identity.pair:
            return first
        await asyncio.sleep(self._settle)
        second = await asyncio.to_thread(_read_pair, self._proxy.live.config)
        if isinstance(second, PenstockError):
            return second if isinstance(first, PenstockError) else None
        return second if first == second else None

    async def _look_at_config(self, source: Source, *, is_asked: bool) -> None:
        files = [*([source.file] if source.file is not None else []), *files_behind(self._proxy.live.config)]
        seen = await asyncio.to_thread(_digest, files)
        if not is_asked:
            if seen == self._config_seen:
                return
            await asyncio.sleep(self._settle)
            if seen != await asyncio.to_thread(_digest, files):
                return
        before = self._proxy.live
        try:
            config = await asyncio.to_thread(source.read)
            if not is_asked and seen != await asyncio.to_thread(_digest, files):
                return
            live = await asyncio.to_thread(before.with_config, config, self._lookup)
        except PenstockError as exc:
            self._refuse("config", exc, seen)  # looked at again each time: what it lacks may come later
            return
        self._config_seen = seen
        self._refused.pop("config", None)
        if is_asked or live.changes_from(before):
            self._proxy.adopt(live)

    def _refuse(self, what: str, error: PenstockError, content: object) -> None:
        """Tell once for the same content: the poll goes on, and the log is not its clock."""
        if self._refused.get(what) != content:
            self._refused[what] = content
            self._proxy.refused(what, error)

    @property
    def _settle(self) -> float:
        return min(_SETTLE, self._proxy.live.config.reload_interval)


def _read_pair(config: ProxyConfig) -> KeyPair | PenstockError:
    try:
        return read_pair(config.tls.cert_file, config.tls.key_file)
    except PenstockError as exc:
        return exc


def _digest(files: Sequence[Path]) -> bytes:
    digest = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as exc:
            content = str(exc.errno).encode()
        digest.update(hashlib.sha256(content).digest())
    return digest.digest()
