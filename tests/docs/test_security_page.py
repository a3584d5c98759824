"""docs/security.md promises nothing that no test holds, and lists every certificate rule in the code's own words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.tls.rules import Rule

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

RULE_ROW = re.compile(r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(?:tests/)?([a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


def test_every_rule_is_listed_with_its_sentence_and_its_fix() -> None:
    section = PAGE.partition("## Certificate rules")[2]
    rows = RULE_ROW.findall(section.replace("\\<", "<"))  # else Markdown takes it for HTML
    listed = {name: (sentence, fix) for name, sentence, fix in rows}
    assert listed == {rule.value: (rule.sentence, rule.fix) for rule in Rule}


@pytest.mark.parametrize(("file", "name"), sorted(set(TEST.findall(PAGE))))
def test_every_test_it_names_exists(file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_row_of_refusals_names_a_test() -> None:
    section = PAGE.partition("## What each hop refuses")[2].partition("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ") and not row.startswith(("| ---", "| who"))]
    assert len(rows) > 20
    assert [row for row in rows if not TEST.search(row)] == []
