"""Files that roles write, with somebody else in the folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from penstock.config.files import write_file

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_mode_and_owner_are_the_written_files_whatever_stands_at_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns the folder that root writes into puts a link in the place of what is being written."""
    victim = tmp_path / "victim"
    victim.write_text("of root alone")
    victim.chmod(0o600)
    folder = tmp_path / "folder"
    folder.mkdir()
    given: list[object] = []
    fsync = os.fsync

    def swap(descriptor: int) -> None:
        fsync(descriptor)
        (written,) = folder.iterdir()
        written.unlink()
        written.symlink_to(victim)

    monkeypatch.setattr(os, "fsync", swap)
    monkeypatch.setattr(os, "chown", lambda path, *_: given.append(path))
    write_file(folder / "tls.crt", "public", mode=0o644, owner=(os.getuid(), os.getgid()))
    assert victim.stat().st_mode & 0o777 == 0o600
    assert given == []
