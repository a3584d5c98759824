"""PEM files that settings name: what is wrong with one is told by the setting's name and the file's."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from penstock.config.files import named_by
from penstock.errors import ConfigError
from penstock.secret import Secret
from penstock.tls.certs import KeyPair
from penstock.tls.contexts import control_client, read_pem

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_CERTIFICATE: Final = "CERTIFICATE-----"
_KEY: Final = "PRIVATE KEY-----"


def read_pair(cert_file: Path, key_file: Path) -> KeyPair:
    """Certificate and key at once, so that what is checked is what is used. ConfigError where one is something else."""
    with named_by("tls.cert_file"):
        certificate = read_certificates(cert_file)
    with named_by("tls.key_file"):
        key = _holding(_KEY, "private key", key_file)
    return KeyPair(certificate, Secret(key))


@contextlib.contextmanager
def presenting(cert_file: Path, key_file: Path) -> Generator[None]:
    """What TLS has to say against a pair inside is said with where it is from."""
    try:
        yield
    except ConfigError as exc:
        raise ConfigError(
            f"tls.cert_file and tls.key_file: {exc.public}", detail=f"{cert_file} and {key_file}: {exc.detail}", hint=exc.hint
        ) from exc


def read_authorities(file: Path, setting: str) -> str:
    """A bundle of CA certificates that `setting` names, fit to trust a platform by. Raises ConfigError."""
    with named_by(setting):
        control_client(file)
        return read_pem(file)


def read_certificates(file: Path) -> str:
    """A file with one certificate or more, by the look of it. Raises ConfigError."""
    return _holding(_CERTIFICATE, "certificate", file)


def _holding(mark: str, what: str, file: Path) -> str:
    """By its armour alone: what is inside that OpenSSL judges, which takes more forms than any check here would."""
    text = read_pem(file)
    if not any(line.startswith("-----BEGIN ") and line.rstrip().endswith(mark) for line in text.splitlines()):
        reason = "is empty" if not text.strip() else f"holds no PEM {what}"
        raise ConfigError(f"{file} {reason}", hint=f"name the file with the {what}: -----BEGIN … {mark}")
    return text
