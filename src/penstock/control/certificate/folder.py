"""The files of the ACME client: `account.key`, `certificate.pem` (key and chain in one), `challenges/`, `lock`. All private.

The pair is one file so that it is replaced in one step: nobody ever reads the new certificate beside the old key. Answers to
challenges are files so that every process on the folder can give them, whichever of them asked.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from penstock.config.files import private_folder, read_file, write_file
from penstock.secret import Secret
from penstock.tls import certs

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.tls.certs import KeyPair, PrivateKey

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")  # RFC 8555 8.3; it becomes a file's name


class AcmeFolder:
    """`<data_dir>/acme`. Everything here blocks, for the time of a small file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None

    @property
    def pair_file(self) -> Path:
        """The private key and the certificate chain."""
        return self._folder / "certificate.pem"

    def prepare(self) -> None:
        """Make it, mode 0700. Raises ConfigError."""
        hint = "data_dir must be writable: the certificate is kept there"
        private_folder(self._folder, hint=hint)
        private_folder(self._folder / "challenges", hint=hint)

    def account_key(self) -> PrivateKey:
        """The account's key, made at the first call: on the disk before anybody hears of it."""
        file = self._folder / "account.key"
        pem = read_file(file)
        if pem is None:
            pem = certs.key_to_pem(certs.make_ec_key()).reveal()
            write_file(file, pem)
        return certs.load_key(Secret(pem))

    def keep(self, pair: KeyPair) -> None:
        """Put a new pair in the place of the old one."""
        write_file(self.pair_file, f"{pair.key_pem.reveal()}{pair.certificate_pem}")

    def answer(self, token: str) -> str | None:
        """What answers the challenge, while one with this token is open."""
        return read_file(self._folder / "challenges" / token) if _TOKEN.fullmatch(token) else None

    def open_challenge(self, token: str, answer: str) -> None:
        """Answer this token from now on. ValueError for a token that is none."""
        if not _TOKEN.fullmatch(token):
            msg = "the authority's token is not one"
            raise ValueError(msg)
        write_file(self._folder / "challenges" / token, answer)

    def close_challenges(self) -> None:
        """Answer none any more, those that a crash left open included."""
        for file in (self._folder / "challenges").iterdir():
            file.unlink(missing_ok=True)

    def take_lock(self) -> bool:
        """Whether this process is the one that renews: from now on until it ends, however it ends."""
        if self._lock is None:
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _lock(descriptor)
            except OSError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def release(self) -> None:
        """Let another process renew."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt  # noqa: PLC0415 - Windows only

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]  # not typed elsewhere
    else:
        import fcntl  # noqa: PLC0415 - not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
