"""Importing without the parts of a library that nobody here uses."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest

from penstock import omit

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


_LIBRARY = """\
try:
    from library.heavy import Much
except ImportError:
    Much = "not there"
"""


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A package that takes what its `heavy` module has, and makes do where that is not installed."""
    package = tmp_path / "library"
    package.mkdir()
    (package / "heavy.py").write_text("Much = 1\n")
    (package / "__init__.py").write_text(_LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("library", "library.heavy"):
        sys.modules.pop(name, None)


def test_what_is_absent_is_as_if_it_were_not_installed_and_can_be_imported_later() -> None:
    with omit.absent("library.heavy"):
        assert importlib.import_module("library").Much == "not there"
    assert importlib.import_module("library.heavy").Much == 1


def test_of_what_is_hollow_everything_is_none_and_it_can_be_imported_later() -> None:
    with omit.hollow("library.heavy"):
        assert importlib.import_module("library").Much is None
    assert importlib.import_module("library.heavy").Much == 1


def test_what_somebody_has_imported_stays_theirs() -> None:
    heavy = importlib.import_module("library.heavy")
    with omit.absent("library.heavy"), omit.hollow("library.heavy"):
        assert importlib.import_module("library.heavy") is heavy
    assert sys.modules["library.heavy"] is heavy


def test_it_is_back_however_the_import_ends() -> None:
    with pytest.raises(ModuleNotFoundError), omit.absent("library.heavy"):
        importlib.import_module("library.heavy")
    assert importlib.import_module("library.heavy").Much == 1
