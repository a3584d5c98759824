"""The documents as tests use them: a page's commands and files, and the tests it names.

A page is bound to a name once, at a module's top, and its blocks are asked for by that name and in plain words:
`PAGE.commands("upgrade")`. By that `tests/docs/test_commands.py` knows which blocks somebody types.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(sh|yaml|ini|python)([a-z -]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r"`(?:tests/)?([a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


@dataclass(frozen=True)
class Page:
    """One of `docs/`."""

    name: str

    @property
    def text(self) -> str:
        return (ROOT / "docs" / self.name).read_text(encoding="utf-8")

    def blocks(self, kind: str = "", language: str = "sh") -> list[str]:
        """What stands in the page's blocks of a kind, the words behind the language."""
        found = [text for lang, kinds, text in self.all_blocks() if (lang, kinds) == (language, kind)]
        assert found, f"{self.name}: no {language} block of the kind {kind!r}"
        return found

    def commands(self, *kinds: str) -> str:
        """The shell commands of these kinds, one after another."""
        return "".join(block for kind in kinds for block in self.blocks(kind))

    def all_blocks(self) -> list[tuple[str, str, str]]:
        """Language, kind and text."""
        return [(language, kind.strip(), text) for language, kind, text in _BLOCK.findall(self.text)]

    def named_tests(self) -> list[tuple[str, str]]:
        """File and name of each test that the page says holds it to something."""
        return sorted(set(_NAMED.findall(self.text)))


def is_test(file: str, name: str) -> bool:
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    return re.search(rf"^\s*(async )?def {name}\(", text, re.MULTILINE) is not None
