"""What the documents' tests share: the pages, and the tests they name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`(?:tests/)?([a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def named_tests(name: str) -> list[tuple[str, str]]:
    return sorted(set(_NAMED.findall(page(name))))


def is_test(file: str, name: str) -> bool:
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    return re.search(rf"^(async )?def {name}\(", text, re.MULTILINE) is not None
