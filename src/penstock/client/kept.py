"""The caller's certificate that one run of a command leaves to the next: a loop of calls does not ask for one each time.

One private file an identity, its key and its certificate, below `$XDG_STATE_HOME/penstock/callers` or
`~/.local/state/penstock/callers`; `PENSTOCK_CALLERS` names another folder, or `off`. The file's name is a digest of the API's
URL and the credential: another key, another session or another platform never finds it. What the file holds can call as this
identity for what is left of its life, a day at most; so it is read only where nobody else could have written or read it.
Only commands keep theirs: a program that uses the library holds one for its own life, and writes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from penstock.config.files import private_folder, write_file
from penstock.errors import ConfigError, PenstockError
from penstock.secret import Secret
from penstock.tls import certs, rules
from penstock.tls.certs import KeyPair

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from penstock.client.access import Access

_log: Final = logging.getLogger("penstock.client")  # as in `pins`
_SUFFIX: Final = ".pem"
_LIMIT: Final = 64 << 10  # ours have 2 KiB
_OLD_SECONDS: Final = 2 * 86_400.0  # twice the usual life: files of sessions that ended do not pile up


def find_folder(environment: Mapping[str, str]) -> Path | None:
    """Where they are kept, None for nowhere. Raises ConfigError for a folder that depends on where the command runs."""
    named = environment.get("PENSTOCK_CALLERS")
    if named == "off":
        return None
    if named:
        if not Path(named).is_absolute():
            raise ConfigError(
                f"PENSTOCK_CALLERS: {named} is not an absolute path", hint="name a folder from / on, or `off` to keep nothing"
            )
        return Path(named)
    state, home = environment.get("XDG_STATE_HOME"), environment.get("HOME") or environment.get("USERPROFILE")
    if state and Path(state).is_absolute():  # a relative one is to be ignored, says its specification
        return Path(state) / "penstock" / "callers"
    if not home or not Path(home).is_absolute() or not os.access(home, os.W_OK):
        return None
    return Path(home) / ".local" / "state" / "penstock" / "callers"


class KeptPair:
    """One identity's file. Blocks, for the time of a small file."""

    def __init__(self, folder: Path, api_url: str, credential: Secret) -> None:
        digest = hashlib.sha256(f"penstock caller\0{api_url.rstrip('/')}\0{credential.reveal()}".encode()).hexdigest()
        self._file = folder / f"{digest}{_SUFFIX}"

    @classmethod
    def of(cls, access: Access) -> KeptPair | None:
        """Where this access keeps its own, if anywhere."""
        return None if access.kept is None else cls(access.kept, access.api_url, access.api_key)

    def load(self, now: datetime) -> KeyPair | None:
        """What is kept, while it holds. None for a file that is not whole, not ours alone, or over: another is made then."""
        text = self._read()
        if text is None:
            return None
        try:
            certificate = x509.load_pem_x509_certificate(text.encode())
            key = certs.load_key(Secret(text))
            rules.check_caller_certificate(certs.certificate_to_der(certificate), now)
        except (PenstockError, ValueError):
            return None
        return KeyPair.of(certificate, key) if certificate.public_key() == key.public_key() else None

    def keep(self, pair: KeyPair) -> None:
        """Replace what is kept, in one step. A disk that does not take it costs the next command a question, and no more."""
        try:
            private_folder(self._file.parent, hint="PENSTOCK_CALLERS names another folder, or `off`")
            write_file(self._file, pair.key_pem.reveal() + pair.certificate_pem)
        except PenstockError as exc:
            _log.warning("the caller's certificate is not kept for the next command: %s; %s", exc.public, exc.hint)
            return
        self._tidy()

    def drop(self, pair: KeyPair) -> None:
        """It was refused: forget it, unless another command has put another in its place."""
        if (text := self._read()) is not None and pair.certificate_pem.strip() in text:
            self.remove()

    def remove(self) -> None:
        """Forget whatever is kept."""
        with contextlib.suppress(OSError):
            self._file.unlink()

    def _read(self) -> str | None:
        try:
            descriptor = os.open(self._file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(descriptor, "rb") as opened:
                status = os.fstat(opened.fileno())
                if os.name == "posix" and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077):
                    return None
                return opened.read(_LIMIT).decode("ascii")
        except (OSError, UnicodeDecodeError):
            return None

    def _tidy(self) -> None:
        for file in self._file.parent.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < time.time() - _OLD_SECONDS:
                    file.unlink()
