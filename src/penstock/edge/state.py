"""The edge's folder: its identity, the last snapshot and the deltas since, so that it restarts without the control plane.

Every file has mode 0600 and is replaced whole; only deltas are appended, and one that was cut short meanwhile does not count.
No tunnel secret is ever in it: a snapshot holds verifiers. Nothing of it is believed but for its signature, and the highest
version that was ever held is kept apart from it: an older snapshot that was put back is not taken, nor served to a restart by
anybody else.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from penstock.config.files import named_by, private_folder, read_file, write_file, writing
from penstock.errors import ConfigError
from penstock.schema.edges import EdgeEnrolment
from penstock.secret import Secret
from penstock.tls import certs
from penstock.tls.names import edge_label

if TYPE_CHECKING:
    from pathlib import Path

_SIGNATURE: Final = 64  # bytes, before the body: Ed25519
_LENGTH: Final = 4  # bytes, before a delta's signature: its body's
_READ_AGAIN: Final = 10  # times where the snapshot is replaced while it is read: the next comes a second later at the soonest
_MAX_FILE: Final = 256 * 1024 * 1024  # a million tunnels and callers are some 400 bytes each


@dataclass(frozen=True, slots=True)
class EdgeIdentity:
    """What enrolment gave, and the key made for it."""

    edge_id: str
    credential: Secret
    key_pem: Secret
    certificate_pem: str
    edge_ca_pem: str
    caller_ca_pem: str
    feed_key: bytes
    """Raw Ed25519 public key of the feed, pinned since enrolment."""

    @property
    def name(self) -> str:
        """What this edge is called: its certificate says so."""
        return edge_label(self.certificate_pem) or ""


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A snapshot or a delta as it came: its bytes, the signature over them, and when control last vouched for it."""

    body: bytes
    signature: bytes
    confirmed_at: float


@dataclass(frozen=True, slots=True)
class StoredFeed:
    """What the disk kept of the feed. version: the highest ever held, -1 before the first."""

    version: int
    snapshot: StoredPage | None
    deltas: tuple[StoredPage, ...]


class EdgeState:
    """Reads and writes the folder, or raises ConfigError; every method blocks, callers on a loop use a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = folder / "edge.key"
        self._next_key = folder / "edge.key.next"
        self._enrolment = folder / "enrolment.json"
        self._snapshot = folder / "snapshot"
        self._deltas = folder / "deltas"
        self.snapshot_size = self.deltas_size = 0
        """Bytes of the snapshot, and of whole deltas; what may follow those was cut short."""
        self._version = folder / "version"
        self._addresses = folder / "addresses"

    def prepare(self) -> None:
        """Make the folder; ConfigError when it cannot be written."""
        with named_by("state_dir"):
            private_folder(self._folder, hint="make the folder writable by this user, or set state_dir to another")

    def load_identity(self) -> EdgeIdentity | None:
        """The identity of an earlier enrolment; None on a first start."""
        enrolment, key, next_key = (self._read(file) for file in (self._enrolment, self._key, self._next_key))
        if enrolment is None:
            return None
        try:
            identity = identity_of(EdgeEnrolment.model_validate_json(enrolment), Secret((key or b"").decode("ascii")))
            if next_key is not None:  # saving was cut short: the certificate on disk says which key is its own
                saved = replace(identity, key_pem=Secret(next_key.decode("ascii")))
                if certs.belong_together(saved.certificate_pem, saved.key_pem):
                    return saved
            return identity if key is not None else None
        except (ValidationError, UnicodeDecodeError, ValueError):
            raise ConfigError(
                f"{self._enrolment}: not an edge's enrolment",
                hint=f"delete the folder {self._folder} (state_dir) and start with an enrolment token to enrol again",
            ) from None

    def save_identity(self, identity: EdgeIdentity) -> None:
        """Keep an enrolment, or a renewed certificate and its key. Cut anywhere, what is on disk is the old one or the new."""
        key = identity.key_pem.reveal()
        write_file(self._next_key, key)
        write_file(self._enrolment, _enrolment_of(identity).model_dump_json())
        write_file(self._key, key)
        with writing(self._next_key):
            self._next_key.unlink()

    def load_addresses(self) -> str | None:
        """The addresses it enrolled under, as they were saved."""
        return read_file(self._addresses)

    def save_addresses(self, addresses: str) -> None:
        """Keep the addresses it enrolled under."""
        write_file(self._addresses, addresses)

    def load_feed(self) -> StoredFeed:
        """The last snapshot kept and the deltas since; their signatures are for who uses them to check.

        Another worker may write meanwhile: a snapshot is read again where it was replaced before the deltas were read.
        """
        version = self._load_version()  # first: what is written later is no lower
        snapshot, deltas = self._load_snapshot(), self._load_deltas()
        for _ in range(_READ_AGAIN):
            if snapshot is None or snapshot.signature == self._read(self._snapshot, _SIGNATURE):
                break
            snapshot, deltas = self._load_snapshot(), self._load_deltas()
        return StoredFeed(version, snapshot, deltas)

    def _load_snapshot(self) -> StoredPage | None:
        held = self._read(self._snapshot)
        if held is None:
            return None
        self.snapshot_size = len(held)
        return StoredPage(held[_SIGNATURE:], held[:_SIGNATURE], self._snapshot.stat().st_mtime)

    def _load_deltas(self) -> tuple[StoredPage, ...]:
        """Those since that snapshot, or before it where saving it was cut short."""
        held = self._read(self._deltas) or b""
        deltas: list[StoredPage] = []
        at = 0
        while (end := at + _LENGTH + _SIGNATURE + int.from_bytes(held[at : at + _LENGTH])) <= len(held):
            signature = at + _LENGTH
            body = signature + _SIGNATURE
            deltas.append(StoredPage(held[body:end], held[signature:body], 0.0))
            at = end
        self.deltas_size = at
        return tuple(deltas)

    def save_snapshot(self, stored: StoredPage, version: int) -> None:
        """Keep a snapshot, and that it was held. In this order: cut between the two, the snapshot still serves a restart."""
        write_file(self._snapshot, stored.signature.ljust(_SIGNATURE, b"\0") + stored.body)
        with writing(self._deltas):
            self._deltas.unlink(missing_ok=True)
        self.snapshot_size, self.deltas_size = _SIGNATURE + len(stored.body), 0
        self.confirm_snapshot(stored.confirmed_at)
        write_file(self._version, str(version))

    def save_delta(self, stored: StoredPage, version: int) -> None:
        """Keep a delta to what is kept, and that its version was held, in the same order."""
        record = len(stored.body).to_bytes(_LENGTH) + stored.signature.ljust(_SIGNATURE, b"\0") + stored.body
        with writing(self._deltas), os.fdopen(os.open(self._deltas, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.truncate(self.deltas_size)
            file.seek(self.deltas_size)
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        self.deltas_size += len(record)
        self.confirm_snapshot(stored.confirmed_at)
        write_file(self._version, str(version))

    def confirm_snapshot(self, confirmed_at: float) -> None:
        """Control said that nothing is newer than what is kept."""
        with writing(self._snapshot):
            os.utime(self._snapshot, (confirmed_at, confirmed_at))

    def _load_version(self) -> int:
        text = (read_file(self._version) or "-1").strip()
        try:
            return int(text)
        except ValueError:
            raise ConfigError(
                f"{self._version}: not a version",
                hint=f"delete the folder {self._folder} (state_dir) and start with an enrolment token to enrol again",
            ) from None

    def _read(self, file: Path, size: int = _MAX_FILE) -> bytes | None:
        try:
            with file.open("rb") as opened:
                return opened.read(size)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise ConfigError(f"cannot read {file}: {exc.strerror or exc}") from exc


def identity_of(enrolment: EdgeEnrolment, key_pem: Secret) -> EdgeIdentity:
    """An enrolment's answer as the edge uses it; ValueError for a feed key that is none."""
    feed_key = base64.b64decode(enrolment.feed_key, validate=True)
    if len(feed_key) != 32:
        msg = "an Ed25519 key has 32 bytes"
        raise ValueError(msg)
    return EdgeIdentity(
        edge_id=enrolment.edge_id,
        credential=Secret(enrolment.credential),
        key_pem=key_pem,
        certificate_pem=enrolment.certificate_pem,
        edge_ca_pem=enrolment.edge_ca_pem,
        caller_ca_pem=enrolment.caller_ca_pem,
        feed_key=feed_key,
    )


def _enrolment_of(identity: EdgeIdentity) -> EdgeEnrolment:
    return EdgeEnrolment(
        edge_id=identity.edge_id,
        credential=identity.credential.reveal(),
        certificate_pem=identity.certificate_pem,
        edge_ca_pem=identity.edge_ca_pem,
        caller_ca_pem=identity.caller_ca_pem,
        feed_key=base64.b64encode(identity.feed_key).decode(),
    )
