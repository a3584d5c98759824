"""Page cursors: the position of the last item seen, opaque to clients. Lists are newest first, by time and then id."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from sqlalchemy import and_, or_

from penstock.control.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

_PREFIX: Final = "page_"
_LONGEST: Final = 256


class Listed(Protocol):
    """What a list holds."""

    @property
    def id(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...


T_co = TypeVar("T_co", bound=Listed, covariant=True)


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """Some items, and the cursor of the next ones."""

    data: tuple[T_co, ...]
    next_page: str | None


def cut(items: Sequence[T_co], limit: int) -> Page[T_co]:
    """A page out of up to `limit + 1` items: the one too many says that there is more."""
    data = tuple(items[:limit])
    return Page(data, _cursor(data[-1].created_at, data[-1].id) if len(items) > limit else None)


def position(cursor: str) -> tuple[datetime, str]:
    """Where a cursor stands. Raises ApiError for anything this module did not make."""
    at, _, last = decode(cursor).partition("|")
    try:
        return datetime.fromisoformat(at).astimezone(UTC), last
    except (ValueError, OverflowError) as exc:
        raise not_a_cursor() from exc


def encode(place: str) -> str:
    """A cursor of a place in a list."""
    return _PREFIX + base64.urlsafe_b64encode(place.encode()).decode()


def decode(cursor: str) -> str:
    """The place a cursor stands for. Raises ApiError."""
    try:
        if not cursor.startswith(_PREFIX) or len(cursor) > _LONGEST:
            raise ValueError
        return base64.urlsafe_b64decode(cursor.removeprefix(_PREFIX)).decode()
    except (ValueError, binascii.Error) as exc:
        raise not_a_cursor() from exc


def not_a_cursor() -> ApiError:
    """The refusal of a cursor this list did not make."""
    return ApiError("invalid_request_error", "page: not a cursor of this list", hint="use next_page as it was given")


def _cursor(at: datetime, last: str) -> str:
    return encode(f"{at.isoformat()}|{last}")


# --- the older style, with ids for cursors -------------------------------------------------------------------------------

_R = TypeVar("_R")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class IdCursor:
    """What was asked for: the items after (older than) one, or before (newer than) one."""

    after_id: str | None = None
    before_id: str | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True)
class IdPage(Generic[_R]):
    """Some items, whether there are more in the direction asked for, and the ids at both ends."""

    data: tuple[_R, ...]
    has_more: bool
    first_id: str | None
    last_id: str | None

    def of(self, make: Callable[[_R], _T]) -> IdPage[_T]:
        """The same page of what `make` makes of each item."""
        return IdPage(tuple(make(item) for item in self.data), self.has_more, self.first_id, self.last_id)


async def read_ids(
    connection: AsyncConnection, query: Select[Any], table: Table, cursor: IdCursor
) -> IdPage[Mapping[str, Any]]:
    """One page of `query` over `table`, newest first. Raises ApiError for a cursor that names nothing of it."""
    if cursor.after_id is not None and cursor.before_id is not None:
        raise ApiError("invalid_request_error", "after_id and before_id exclude each other")
    at, last = table.c.created_at, table.c.id
    order = (at.desc(), last.desc())
    if (name := cursor.after_id or cursor.before_id) is not None:
        found = (await connection.execute(query.where(last == name))).mappings().one_or_none()
        if found is None:
            field = "after_id" if cursor.after_id is not None else "before_id"
            raise ApiError("invalid_request_error", f"{field}: not an item of this list")
        if cursor.after_id is not None:
            query = query.where(or_(at < found["created_at"], and_(at == found["created_at"], last < name)))
        else:
            query = query.where(or_(at > found["created_at"], and_(at == found["created_at"], last > name)))
            order = (at.asc(), last.asc())
    rows = [dict(row) for row in (await connection.execute(query.order_by(*order).limit(cursor.limit + 1))).mappings()]
    has_more = len(rows) > cursor.limit
    rows = rows[: cursor.limit]
    if cursor.before_id is not None:
        rows.reverse()
    return IdPage(tuple(rows), has_more, rows[0]["id"] if rows else None, rows[-1]["id"] if rows else None)


async def read_page(
    connection: AsyncConnection, query: Select[Any], table: Table, *, limit: int, cursor: str | None
) -> tuple[tuple[Mapping[str, Any], ...], str | None]:
    """One page of `query` over `table` in the page-cursor style, newest first, and the next one's cursor."""
    at, last = table.c.created_at, table.c.id
    if cursor is not None:
        when, name = position(cursor)
        query = query.where(or_(at < when, and_(at == when, last < name)))
    found = await connection.execute(query.order_by(at.desc(), last.desc()).limit(limit + 1))
    rows = [dict(row) for row in found.mappings()]
    following = _cursor(rows[limit - 1]["created_at"], rows[limit - 1]["id"]) if len(rows) > limit else None
    return tuple(rows[:limit]), following
