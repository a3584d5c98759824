"""What a run tells while it works: one sentence a step, said when it is done, and kept for whoever reads JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Progress:
    """Collects the steps; `tell` shows each to a person. is_dry: what would change something is only said."""

    def __init__(self, tell: Callable[[str], None], *, is_dry: bool = False) -> None:
        self._tell = tell
        self.is_dry = is_dry
        self.changes: list[str] = []

    def kept(self, sentence: str) -> None:
        """Something was found as it should be."""
        self._tell(f"  {sentence}")

    def would(self, sentence: str) -> bool:
        """Announce a change; True when it must not be made."""
        self.changes.append(sentence)
        self._tell(f"{'would ' if self.is_dry else '· '}{sentence}")
        return self.is_dry
