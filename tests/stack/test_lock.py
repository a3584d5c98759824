from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from penstock.errors import ConfigError
from penstock.stack.lock import only_one

if TYPE_CHECKING:
    from pathlib import Path

HOLDS = """
import pathlib, sys
from penstock.stack.lock import only_one
with only_one(pathlib.Path(sys.argv[1]), "up"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        only_one(tmp_path, "up"),
        pytest.raises(ConfigError, match="another `penstock up` runs") as caught,
        only_one(tmp_path, "up"),
    ):
        pass
    assert "--dir" in (caught.value.hint or "")
    with only_one(tmp_path, "up"):
        pass


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError), only_one(tmp_path, "up"):
            pass
        holder.kill()
        holder.wait(10)
    with only_one(tmp_path, "up"):
        pass
