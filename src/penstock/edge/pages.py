"""Pages of the feed, whole or what changed, off the wire or off the disk: believed for their signature alone, then an index.

Pure, and long where a platform is large: a second for a hundred thousand tunnels. So callers on a loop use a thread, and what
is long in it is made of small steps, between which the loop has its turn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from penstock.edge.directory import Directory
from penstock.errors import IdentityError
from penstock.schema.edges import (
    DELTA_CONTEXT,
    SNAPSHOT_CONTEXT,
    CallerRecord,
    Delta,
    Snapshot,
    TunnelRecord,
    fresh_message,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.edge.state import StoredPage

_Page = TypeVar("_Page", Snapshot, Delta)


def whole(key: bytes, stored: StoredPage) -> Directory:
    """What a snapshot tells, if `key` (raw Ed25519) signed exactly these bytes. IdentityError otherwise."""
    return Directory.of(_verified(key, stored, SNAPSHOT_CONTEXT, Snapshot, "snapshot"))


def changed(key: bytes, stored: StoredPage, held: Directory) -> Directory:
    """What a delta makes of `held`. IdentityError likewise, and where it is for another state."""
    return held.after(_delta(key, stored))


def restored(key: bytes, stored: StoredPage, deltas: Iterable[StoredPage]) -> Directory:
    """What the disk kept: a snapshot, and the deltas since. IdentityError where one does not follow."""
    began = whole(key, stored)
    since = (_delta(key, kept) for kept in deltas)
    # Those that are no newer are older than the snapshot: saving was cut short.
    return began.after(*(delta for delta in since if delta.version > began.version))


def check_fresh(key: bytes, signature: bytes, version: int, nonce: str) -> None:
    """IdentityError unless `key` signed that nothing was newer than `version` when it was asked with `nonce`."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, fresh_message(version, nonce))
    except InvalidSignature:
        raise IdentityError(
            "an answer of the feed is not this edge's control plane's, or not of now",
            hint="something between edge and control keeps answers back or changes them, or control is older than this edge",
        ) from None


def _delta(key: bytes, stored: StoredPage) -> Delta:
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
        return kind.model_validate(json.loads(stored.body, object_hook=_record))
    except ValidationError as exc:
        raise IdentityError(f"a signed {name} cannot be read", detail=f"{exc.error_count()} wrong fields") from None
    except (ValueError, RecursionError) as exc:
        raise IdentityError(f"a signed {name} cannot be read", detail=str(exc)) from None


def _record(found: dict[str, Any]) -> object:
    """One record at a time: pydantic's own reading of a page is one long step that lets nobody else run."""
    if "wire_id" in found:
        return TunnelRecord.model_validate(found)
    if "serial" in found:
        return CallerRecord.model_validate(found)
    return found
