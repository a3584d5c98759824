"""A directory as output, whose owner is not whoever runs setup: root renews certificates in other users' folders."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from penstock.errors import ConfigError
from penstock.setup.directory import Directory

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("link", [os.symlink, os.link])
async def test_a_lock_that_is_a_way_to_another_file_is_refused_and_that_file_stays_whose_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: object
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of root alone")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert callable(link)
    link(victim, folder / ".setup.lock")
    given: list[object] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda *to: given.append(to))
    with pytest.raises(ConfigError, match=r"\.setup\.lock"):
        async with Directory(folder).exclusively():
            pass
    assert given == []
    (folder / ".setup.lock").unlink()
    async with Directory(folder).exclusively():
        pass
    assert given != []
