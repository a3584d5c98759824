"""Proving an export of the audit log, wherever it is kept: its lines alone, without the store they came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from penstock.control.service import audit
from penstock.control.service.audit_log import Verdict

if TYPE_CHECKING:
    from typing import BinaryIO

_LONGEST: Final = 1 << 20  # bytes; the longest record has a reason of some thousand characters


def verify_file(file: BinaryIO, *, is_part: bool = False, expected: tuple[int, str] | None = None) -> Verdict:
    """Walk an export, oldest record first. `is_part`: gaps are its filters', and only what follows directly is held together.

    `expected` is a position and hash noted elsewhere; nothing else can show that the end was cut.
    """
    verdict = Verdict()
    is_noted = expected is None
    number = 0
    while line := file.readline(_LONGEST):
        number += 1
        record = _read(line)
        if record is None:
            verdict.find(f"line {number} is no record as it was exported")
            continue
        body, digest = record
        position: int = body["position"]
        if position <= verdict.position:
            verdict.find(f"line {number}: record {position} stands after record {verdict.position}")
        follows = verdict.hash if position == verdict.position + 1 and (verdict.records or position == 1) else None
        verdict.take(position, digest, _broken(body, digest, follows), may_skip=is_part)
        is_noted = is_noted or (position, digest) == expected
    if not is_noted:
        verdict.find(f"record {expected[0] if expected else 0} is not there as it was noted")
    return verdict


def _read(line: bytes) -> tuple[dict[str, Any], str] | None:
    """The record and its hash; None for a line that no export has: cut, spelled otherwise or with a member twice."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    record = cast("dict[str, Any]", found)
    if audit.canonical(record).encode(errors="replace") != line.rstrip(b"\r\n"):
        return None
    if not isinstance(record.get("position"), int) or not isinstance(record.get("previous_hash"), str):
        return None
    digest = record.pop("hash", None)
    return (record, digest) if isinstance(digest, str) else None


def _broken(body: dict[str, Any], digest: str, follows: str | None) -> str | None:
    if audit.digest_of(audit.canonical(body)) != digest:
        return "was edited"
    if follows is not None and body["previous_hash"] != follows:
        return "does not follow the record before it: one of the two was replaced or moved"
    return None
