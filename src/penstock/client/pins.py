"""The CAs a caller remembers of each host, so that the control plane cannot change them unseen.

What control names at the first call that works is believed and remembered. After that a CA is believed if it is remembered, or
if one that is signed it: `penstock setup rotate-ca` lets the old CA sign its successor. Anything else is refused until a person
says otherwise (`penstock pins forget HOST`). A fingerprint given by hand (`PENSTOCK_CA_PIN`) is believed alone, from the first
call on.

One file a host, of PEM certificates, below `~/.config/penstock/pins`; `PENSTOCK_PINS` names another folder, or `off`. Programs
without a home, or with a folder that cannot be written, remember for their own life.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from penstock.config.files import private_folder, read_file, write_file
from penstock.errors import CertificateError, ConfigError, PenstockError
from penstock.tls import certs, rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.tls.rules import CaCertificate

_log: Final = logging.getLogger(
    "penstock.client"
)  # the standard library's: whoever imports this room has settled where it goes

_SUFFIX: Final = ".pem"
_KEPT: Final = 8
"""CAs remembered of one host, the newest: a tunnel has two at once, and years pass between rotations."""


def find_folder(environment: Mapping[str, str]) -> Path | None:
    """Where pins are kept, None for nowhere."""
    named = environment.get("PENSTOCK_PINS")
    if named:
        return None if named == "off" else Path(named)
    home = environment.get("HOME") or environment.get("USERPROFILE")
    if not home or not os.access(home, os.W_OK):
        return None
    return Path(home) / ".config" / "penstock" / "pins"


def parse_fingerprints(text: str) -> frozenset[str]:
    """SHA-256 fingerprints of CA certificates, with commas between; ConfigError for anything else."""
    found = [part.strip().lower().replace(":", "") for part in text.split(",") if part.strip()]
    for fingerprint in found:
        if len(fingerprint) != 64 or not set(fingerprint) <= set("0123456789abcdef"):
            raise ConfigError(
                "a CA pin is the SHA-256 fingerprint of a CA certificate: 64 hexadecimal digits",
                hint="`openssl x509 -in ca.crt -noout -fingerprint -sha256` prints it",
            )
    return frozenset(found)


class Pins:
    """What one caller remembers. Blocks on small files, once a host."""

    def __init__(self, folder: Path | None = None, only: frozenset[str] = frozenset()) -> None:
        """only: fingerprints that are believed and no others; then nothing is remembered."""
        self._folder = folder
        self._only = only
        self._known: dict[str, list[CaCertificate]] = {}

    def believed(self, host: str, anchors: Sequence[CaCertificate], now: datetime) -> tuple[CaCertificate, ...]:
        """Those of `anchors` that may be believed; CertificateError (rule ca-pin) when none may."""
        if self._only:
            good = [anchor for anchor in anchors if anchor.fingerprint in self._only]
        elif known := self._recall(host, now):
            remembered = {anchor.fingerprint for anchor in known}
            roots = [anchor.certificate for anchor in known]
            good = [each for each in anchors if each.fingerprint in remembered or certs.is_issued_by(each.certificate, roots)]
        else:
            good = list(anchors)
        if not good:
            named = ", ".join(anchor.fingerprint for anchor in anchors)
            raise rules.Rule.CA_PIN.broken(detail=f"control names {named} for {host}")
        return tuple(good)

    def remember(self, host: str, believed: Sequence[CaCertificate], now: datetime) -> None:
        """A call worked with these."""
        known = self._recall(host, now)
        remembered = {anchor.fingerprint for anchor in known}
        new = [anchor for anchor in believed if anchor.fingerprint not in remembered]
        if new and not self._only:
            self._keep(host, [*known, *new][-_KEPT:])

    def hosts(self) -> Mapping[str, Sequence[str]]:
        """What is kept on disk: fingerprints by host."""
        now = datetime.now(UTC)
        files = sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder is not None else []
        return {file.stem: [anchor.fingerprint for anchor in self._recall(file.stem, now)] for file in files}

    def forget(self, host: str) -> bool:
        """Begin anew with a host; whether anything was remembered."""
        had = self._known.pop(host, None) is not None
        file = self._file(host)
        if file is None or not file.exists():
            return had
        file.unlink()
        return True

    def _recall(self, host: str, now: datetime) -> list[CaCertificate]:
        if host not in self._known:
            file = self._file(host)
            text = (read_file(file) if file is not None else None) or ""
            try:
                found = [
                    certs.certificate_to_pem(certificate) for certificate in x509.load_pem_x509_certificates(text.encode())
                ]
            except ValueError:
                if text:
                    raise ConfigError(f"{file} does not hold certificates", hint=f"penstock pins forget {host}") from None
                found = []
            self._known[host] = [anchor for pem in found if (anchor := _usable(pem, now)) is not None]
        return self._known[host]

    def _keep(self, host: str, anchors: list[CaCertificate]) -> None:
        self._known[host] = anchors
        file = self._file(host)
        if file is None:
            return
        try:
            private_folder(file.parent, hint="PENSTOCK_PINS names another folder for the CAs to remember, or `off`")
            write_file(file, "".join(anchor.pem for anchor in anchors))
        except (PenstockError, OSError) as exc:  # the call itself worked
            why = f"{exc.public}; {exc.hint}" if isinstance(exc, PenstockError) else f"cannot write {file}: {exc.strerror}"
            _log.warning("the CAs of %s are remembered only while this program runs: %s", host, why)

    def _file(self, host: str) -> Path | None:
        return self._folder / f"{host}{_SUFFIX}" if self._folder is not None else None


def _usable(pem: str, now: datetime) -> CaCertificate | None:
    """None where it has run out since: what an expired CA signs explains nothing."""
    try:
        return rules.check_ca_certificate(pem, now)
    except CertificateError:
        return None
