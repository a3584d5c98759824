"""The units as systemd reads them, where this machine has its tools."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.support.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")
EXPOSURE = 1.5  # of 10; what is left is that a relay needs the network


def test_there_is_a_unit_for_every_role() -> None:
    assert [unit.stem for unit in UNITS] == [f"penstock-{role}" for role in ("agent", "control", "edge", "proxy")]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_runs_its_role_without_a_secret_on_its_command_line(unit: Path) -> None:
    parsed = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parsed.optionxform = str
    parsed.read(unit)
    service = parsed["Service"]
    assert service["ExecStart"].startswith(f"/opt/penstock/bin/penstock {unit.stem.removeprefix('penstock-')} ")
    assert "token" not in service["ExecStart"]
    assert service["NoNewPrivileges"] == "yes"


if ANALYZE is not None:

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
    def test_a_unit_is_hardened(unit: Path) -> None:
        command = [ANALYZE, "security", "--offline=true", "--no-pager", str(unit)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", told)
        assert found is not None
        assert float(found[1]) <= EXPOSURE

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
    def test_systemd_knows_every_line_of_a_unit(unit: Path) -> None:
        ended = subprocess.run([ANALYZE, "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False)
        said = [line for line in ended.stderr.splitlines() if unit.name in line and "is not executable" not in line]
        assert said == []
