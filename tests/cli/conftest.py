from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
import structlog
from tests.support.control import in_thread

from penstock.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from penstock.control.service.bootstrap import Initial


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
    for name in os.environ:
        if name.startswith(("PENSTOCK_", "ANTHROPIC_", "XDG_")):
            monkeypatch.delenv(name)

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


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Initial]]:
    """A control plane, its URL and what its first users hold; one for all tests of a module. It logs nothing."""
    settings = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with in_thread(tmp_path_factory.mktemp("control")) as running:
        yield running
    structlog.configure(**settings)
