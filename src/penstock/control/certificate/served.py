"""What the API presents: the pair in the files, swapped while connections go on."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from penstock.config.pem import presenting, read_pair
from penstock.errors import ConfigError, PenstockError
from penstock.telemetry.log import get_logger
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client import Gauge

    from penstock.tls.certs import KeyPair
    from penstock.tls.contexts import TLSContext

INTERVAL: Final = 10.0  # seconds between looks at two small files; a certificate is renewed weeks ahead


class Served:
    """The pair of two files (or of one that holds both), as last read and fit."""

    def __init__(self, cert_file: Path, key_file: Path | None, expiry: Gauge) -> None:
        """key_file: None where the key stands with the certificate, in a file of our own making."""
        self._files = (cert_file, key_file)
        self._expiry = expiry
        self._log = get_logger("control")
        self._pair: KeyPair | None = None
        self._context: TLSContext | None = None
        self._refused: PenstockError | None = None  # told of already

    @property
    def is_there(self) -> bool:
        """Whether there is a certificate to present."""
        return self._context is not None

    def context(self) -> TLSContext:
        """For the next connection. Not to be asked for before there is one."""
        if self._context is None:
            msg = "there is no certificate yet"
            raise RuntimeError(msg)
        return self._context

    async def load(self) -> None:
        """Read the files and present what is in them. Raises ConfigError; what was presented before then stays."""
        await asyncio.to_thread(self._load)

    async def follow(self) -> None:
        """Look at the files until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Take up what is new in the files; what is unfit is told of once, at the second look: it may be half written."""
        before, seen = self._pair, self._refused
        try:
            await self.load()
        except PenstockError as exc:
            if before is None:
                return  # an authority's first certificate is still to come
            if seen is None or seen.public != exc.public:
                self._refused = exc
            elif seen.detail != _TOLD:
                self._log.error("certificate not reloaded", error=exc.public, hint=exc.hint, kept="what was in use before")
                self._refused = ConfigError(exc.public, detail=_TOLD)
            return
        self._refused = None
        if before is not None and self._pair != before:
            self._log.info("certificate reloaded")

    def _load(self) -> None:
        cert_file, key_file = self._files
        pair = contexts.read_key_pair(cert_file, cert_file) if key_file is None else read_pair(cert_file, key_file)
        if pair == self._pair:
            return
        with contextlib.nullcontext() if key_file is None else presenting(cert_file, key_file):
            context = contexts.control_server(pair)
        self._expiry.set(certs.load_bundle(pair.certificate_pem)[0].not_valid_after_utc.timestamp())
        self._pair, self._context = pair, context


_TOLD: Final = "told"
