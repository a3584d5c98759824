"""Page cursors: the position of the last item seen, opaque to clients. Lists are newest first, by time and then id."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from penstock.control.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    return Page(data, _cursor(data[-1]) if len(items) > limit else None)


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


def _cursor(item: Listed) -> str:
    return encode(f"{item.created_at.isoformat()}|{item.id}")
