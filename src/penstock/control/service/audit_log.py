"""Reading the audit log: pages, export, and the proof that nobody edited, removed or reordered a record."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from penstock.control.errors import ApiError
from penstock.control.service import audit
from penstock.control.service.pages import decode, encode, not_a_cursor
from penstock.control.storage import tables
from penstock.control.storage.vault import SealError
from penstock.schema.audit import ACTIVITIES, Activity, ActivityPage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from sqlalchemy import Row, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from penstock.control.service.core import Core

_BATCH: Final = 500
_FINDINGS: Final = 100  # a log that is broken in more places than that is told by the first ones
_a = tables.audit


@dataclass(frozen=True, slots=True)
class Filters:
    """What is asked for; None asks for everything. Times bound a half-open span."""

    types: tuple[str, ...] = ()
    organization_id: str | None = None
    actor_id: str | None = None
    subject_id: str | None = None
    after: datetime | None = None
    before: datetime | None = None


def check(filters: Filters) -> None:
    """Raises ApiError for an activity there is not."""
    if unknown := sorted(set(filters.types) - set(ACTIVITIES)):
        raise ApiError("invalid_request_error", f"type: there is no activity {unknown[0]:.80}")


async def list_page(core: Core, filters: Filters, *, limit: int, cursor: str | None) -> ActivityPage:
    """Newest first. Raises ApiError for an activity there is not."""
    check(filters)
    query = _filtered(filters).order_by(_a.c.position.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(_a.c.position < _position(cursor))
    async with core.database.read() as connection:
        rows = (await connection.execute(query)).all()
    next_page = encode(str(rows[limit - 1].position)) if len(rows) > limit else None
    return ActivityPage(data=tuple(Activity.model_validate(_object(row)) for row in rows[:limit]), next_page=next_page)


async def export(core: Core, filters: Filters) -> AsyncGenerator[str]:
    """One JSON object a record, oldest first. Each line can be checked by itself: `hash` covers the rest.

    A transaction a batch: whoever reads slowly holds none, and batches of a log that only grows meet.
    """
    query, last = _filtered(filters), 0
    while True:
        async with core.database.read() as connection:
            rows = await _batch(connection, query, last)
        for row in rows:
            yield audit.canonical(_object(row))
        if len(rows) < _BATCH:
            return
        last = rows[-1].position


@dataclass(slots=True)
class Verdict:
    """What a verification found. `position` and `hash` are worth keeping elsewhere: the next one can be held against them."""

    records: int = 0
    position: int = 0
    hash: str = "0" * 64
    findings: list[str] = field(default_factory=list[str])

    def look(self, row: Row[Any]) -> None:
        """Take the next row in order of position."""
        self.take(row.position, row.hash, _broken(row, self.hash))

    def take(self, position: int, digest: str, broken: str | None, *, may_skip: bool = False) -> None:
        """Take the next record, and what is wrong with it if the one before it is the one before it."""
        if position > self.position + 1 and not may_skip:
            self.find(f"records {self.position + 1} to {position - 1} are missing")
        elif broken is not None:
            self.find(f"record {position} {broken}")
        self.records += 1
        self.position, self.hash = position, digest

    def end(self, head: Row[Any] | None, sealed: bytes | None) -> None:
        """Hold the end against the head, and the head against its seal (None: it does not open)."""
        if head is None:
            self.find("the head is missing")
        elif (head.position, head.hash) != (self.position, self.hash):
            self.find(f"the head stands at record {head.position}, the log ends with record {self.position}")
        elif self.position and sealed != audit.seal_text(self.position, self.hash):
            self.find("the head's seal is not of this control plane's master key: the end may have been cut")

    def find(self, finding: str) -> None:
        """One more thing that is wrong."""
        if len(self.findings) < _FINDINGS:
            self.findings.append(finding)


async def verify(core: Core, *, expected: tuple[int, str] | None = None) -> Verdict:
    """Walk the whole log. `expected` is a position and hash noted earlier, which no rewriting of history can keep."""
    verdict = Verdict()
    async with core.database.read() as connection:
        async for row in _rows(connection):
            verdict.look(row)
            if expected is not None and row.position == expected[0] and row.hash != expected[1]:
                verdict.findings.append(f"record {row.position} is not the one that was noted")
        head = (await connection.execute(select(tables.audit_head))).one_or_none()
    verdict.end(head, _opened(core, head))
    if expected is not None and expected[0] > verdict.position:
        verdict.findings.append(f"record {expected[0]}, which was noted, is missing")
    return verdict


def _broken(row: Row[Any], previous: str) -> str | None:
    if audit.digest_of(row.body) != row.hash:
        return "was edited"
    body: dict[str, Any] = json.loads(row.body)
    if body["previous_hash"] != previous or body["position"] != row.position:
        return "does not follow the record before it: one of the two was replaced or moved"
    found = (row.id, row.type, row.organization_id, row.actor_id, row.subject_id)
    told = (body["id"], body["type"], body["organization_id"], body["actor"]["id"], audit.subject_of(body))
    if found != told or audit.moment(row.created_at) != body["created_at"]:
        return "is filed under what it does not say"
    return None


def _opened(core: Core, head: Row[Any] | None) -> bytes | None:
    try:
        return core.vault.open(head.seal, audit.HEAD_CELL) if head is not None and head.seal else None
    except SealError:
        return None


def _filtered(filters: Filters) -> Select[Any]:
    query = select(_a)
    if filters.types:
        query = query.where(_a.c.type.in_(filters.types))
    for column, wanted in (
        (_a.c.organization_id, filters.organization_id),
        (_a.c.actor_id, filters.actor_id),
        (_a.c.subject_id, filters.subject_id),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if filters.after is not None:
        query = query.where(_a.c.created_at >= filters.after)
    if filters.before is not None:
        query = query.where(_a.c.created_at < filters.before)
    return query


async def _rows(connection: AsyncConnection) -> AsyncGenerator[Row[Any]]:
    """All of it in order of position, a batch at a time: a log of years is not held in memory."""
    last = 0
    while rows := await _batch(connection, select(_a), last):
        for row in rows:
            yield row
        last = rows[-1].position


async def _batch(connection: AsyncConnection, query: Select[Any], after: int) -> Sequence[Row[Any]]:
    return (await connection.execute(query.where(_a.c.position > after).order_by(_a.c.position).limit(_BATCH))).all()


def _position(cursor: str) -> int:
    text = decode(cursor)
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise not_a_cursor()
    return int(text)


def _object(row: Row[Any]) -> dict[str, Any]:
    return {**json.loads(row.body), "hash": row.hash}
