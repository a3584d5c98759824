"""Virtual environments with nothing of ours in them. uv makes them where it is installed, else venv and pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 300.0  # an empty package cache and a slow network


@dataclass(frozen=True)
class Venv:
    """One environment."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Venv:
        """An empty one, on the Python that runs the tests."""
        if shutil.which("uv"):
            _run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder)])
        else:
            _run([sys.executable, "-m", "venv", str(folder)])
        return cls(folder)

    def install(self, *requirements: str) -> None:
        """From the package index, or the cache of it."""
        if shutil.which("uv"):
            _run(["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", self.command("python"), *requirements])
        else:
            _run([self.command("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])

    def command(self, name: str) -> str:
        """The path of a program in it."""
        return str(self.folder / "bin" / name)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
