from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
import structlog

from penstock.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """Run `penstock …` in this process, in an empty folder; warnings are errors here, unlike in a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PENSTOCK_API_URL", "PENSTOCK_API_KEY", "PENSTOCK_PROFILE", "PENSTOCK_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["penstock", *arguments])
        code = 0
        try:
            main.main()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
        return Ended(code, *capsys.readouterr())

    settings = structlog.get_config()
    yield run
    structlog.configure(**settings)
