"""What the feed tells, held from one version to the next: whole, and as what changed since a version that an edge holds.

What a delta says is what was read, and not what somebody said of a change: of that no more is believed than what to read.
Pure: rows in, records out.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from penstock.schema.edges import CallerRecord, Delta, EdgeRecord, Snapshot, TunnelRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

STEPS: Final = 256
"""Versions that an edge may be behind and still get a delta: minutes of a busy platform."""
_SHARE: Final = 4
"""A delta holds at most one record in so many of all there are: above that the whole is the better bargain."""
_FEW: Final = 256  # records that are always worth a delta
_MARK_BITS: Final = 128

R = TypeVar("R", TunnelRecord, CallerRecord)


class Records(Generic[R]):
    """Records of one kind by key, each with the row it was made of: one whose row is as before is not made again."""

    def __init__(self) -> None:
        self.by_key: dict[str, R] = {}
        self._rows: dict[str, tuple[object, ...]] = {}
        self._marks: dict[str, int] = {}
        self.mark = 0
        """Of all of them in any order: the sum of what names each."""

    def update(
        self,
        rows: Mapping[str, tuple[object, ...]],
        make: Callable[[tuple[object, ...]], R],
        about: frozenset[str] | None = None,
    ) -> frozenset[str]:
        """Take over what there is now; the keys of what is new, changed or gone. about: `rows` are of these keys only."""
        old = self._rows
        gone = (old.keys() if about is None else about & old.keys()) - rows.keys()
        changed = {key: row for key, row in rows.items() if old.get(key) != row}
        for key in gone:
            del self.by_key[key], old[key]
            self.mark -= self._marks.pop(key)
        for key, row in changed.items():
            record = self.by_key[key] = make(row)
            mark = _mark_of(record.model_dump_json())
            self.mark += mark - self._marks.get(key, 0)
            self._marks[key] = mark
        old.update(changed)
        return frozenset(gone | changed.keys())


@dataclass(frozen=True, slots=True)
class Few:
    """What there is little of, told whole whenever it changed."""

    edges: tuple[EdgeRecord, ...] = ()
    agent_edges: tuple[str, ...] = ()
    edge_ca_pem: str = ""
    caller_ca_pem: str = ""

    def since(self, old: Few) -> dict[str, object]:
        """Those members that are others than in `old`."""
        return {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) != getattr(old, name)}


@dataclass(frozen=True, slots=True)
class _Step:
    """A version that was held, and what the next one changed."""

    version: int
    mark: str
    few: Few
    tunnels: frozenset[str]
    callers: frozenset[str]


@dataclass(slots=True)
class FeedState:
    """The newest version this process has read, and how it came from the ones before."""

    version: int = -1
    mark: str = ""
    tunnels: Records[TunnelRecord] = field(default_factory=Records[TunnelRecord])
    callers: Records[CallerRecord] = field(default_factory=Records[CallerRecord])
    few: Few = field(default_factory=Few)
    _steps: deque[_Step] = field(default_factory=lambda: deque[_Step](maxlen=STEPS))

    def advance(self, version: int, tunnels: frozenset[str], callers: frozenset[str], few: Few) -> None:
        """`tunnels` and `callers`, updated just now, and `few` are what this version holds."""
        if self.version >= 0:
            self._steps.append(_Step(self.version, self.mark, self.few, tunnels, callers))
            while sum(len(step.tunnels) + len(step.callers) for step in self._steps) > self._most():
                self._steps.popleft()  # no delta may be that large
        self.version, self.few = version, few
        told = _mark_of(repr((few.edges, few.agent_edges, few.edge_ca_pem, few.caller_ca_pem)))
        self.mark = f"{(self.tunnels.mark + self.callers.mark + told) % (1 << _MARK_BITS):032x}"

    def _most(self) -> int:
        return max(_FEW, (len(self.tunnels.by_key) + len(self.callers.by_key)) // _SHARE)

    def snapshot(self) -> Snapshot:
        """All of it."""
        return Snapshot(
            version=self.version,
            mark=self.mark,
            tunnels=tuple(self.tunnels.by_key.values()),
            callers=tuple(self.callers.by_key.values()),
            edges=self.few.edges,
            agent_edges=self.few.agent_edges,
            edge_ca_pem=self.few.edge_ca_pem,
            caller_ca_pem=self.few.caller_ca_pem,
        )

    def delta(self, after: int, mark: str) -> Delta | None:
        """What leads here from the state of that version and mark; None where that is not known, or left too much behind."""
        steps = list(self._steps)
        begin = next((at for at, step in enumerate(steps) if (step.version, step.mark) == (after, mark)), None)
        if begin is None:
            return None
        tunnels = frozenset[str]().union(*(step.tunnels for step in steps[begin:]))
        callers = frozenset[str]().union(*(step.callers for step in steps[begin:]))
        return Delta.model_validate(
            {
                "after": after,
                "after_mark": mark,
                "version": self.version,
                "mark": self.mark,
                "tunnels": _there(self.tunnels, tunnels),
                "gone_tunnels": _gone(self.tunnels, tunnels),
                "callers": _there(self.callers, callers),
                "gone_callers": _gone(self.callers, callers),
                **self.few.since(steps[begin].few),
            }
        )


def _there(records: Records[R], keys: Iterable[str]) -> tuple[R, ...]:
    return tuple(records.by_key[key] for key in sorted(keys) if key in records.by_key)


def _gone(records: Records[R], keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if key not in records.by_key)  # a set's own difference would go through all records


def _mark_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_MARK_BITS // 8).digest())
