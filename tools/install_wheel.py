"""Puts the wheel in a folder into this environment, replacing what was there: `python tools/install_wheel.py dist`.

Works in environments with and without pip (uv makes them without).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def main() -> int:
    (wheel,) = Path(sys.argv[1]).glob("penstock-*.whl")
    if shutil.which("uv"):
        command = ["uv", "pip", "install", "--quiet", "--python", sys.executable]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    reinstall = "--reinstall" if command[0] == "uv" else "--force-reinstall"
    return subprocess.call([*command, "--no-deps", "--no-index", reinstall, str(wheel)])  # noqa: S603 - our own command


if __name__ == "__main__":
    sys.exit(main())
