from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Ended


@pytest.fixture
def run(command: Callable[..., Ended], tmp_path: Path) -> Callable[..., Ended]:
    """Run a command on an initialized store."""
    (tmp_path / "control.yaml").write_text(f"data_dir: {tmp_path / 'control'}\n")

    def run(*arguments: str) -> Ended:
        return command(*arguments, "--config", str(tmp_path / "control.yaml"))

    assert run("control", "init").code == 0
    return run


def test_an_untouched_log_verifies_and_prints_its_end(run: Callable[..., Ended]) -> None:
    ended = run("audit", "verify")
    assert ended.code == 0
    end = json.loads(ended.out)
    assert end["records"] == end["position"] > 0
    assert run("audit", "verify", "--expect", f"{end['position']}:{end['hash']}").code == 0
    assert run("audit", "verify", "--expect", f"{end['position']}:{'0' * 64}").code == 1
    assert run("audit", "verify", "--expect", "nonsense").code == 2


def test_an_export_is_proven_without_the_store(
    run: Callable[..., Ended], command: Callable[..., Ended], tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    lines = run("audit", "export").out.splitlines(keepends=True)
    file.write_text("".join(lines))
    assert command("audit", "verify", "--file", str(file)).code == 0
    file.write_text("".join(lines[:1] + lines[2:]))
    assert command("audit", "verify", "--file", str(file)).out == "records 2 to 2 are missing\n"
    assert command("audit", "verify", "--file", str(file), "--part").code == 0
    assert command("audit", "verify", "--file", str(tmp_path / "nothing")).code == 2


def test_a_removed_record_fails_the_verification_and_is_named(run: Callable[..., Ended], tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "control" / "control.db")) as connection, connection:
        connection.execute("DROP TRIGGER audit_refuses_delete")
        connection.execute("DELETE FROM audit WHERE position = 2")
    ended = run("audit", "verify")
    assert ended.code == 1
    assert ended.out == "records 2 to 2 are missing\n"


def test_the_export_is_json_lines_on_stdout(run: Callable[..., Ended]) -> None:
    ended = run("audit", "export", "--type", "api_key_created")
    records = [json.loads(line) for line in ended.out.splitlines()]
    assert records
    assert {record["type"] for record in records} == {"api_key_created"}


@pytest.mark.usefixtures("run")
def test_an_export_whose_reader_leaves_ends_quietly(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "penstock.cli.main", "audit", "export", "--config", str(tmp_path / "control.yaml"))
    for unbuffered in ("1", ""):  # met at the first line, and at the end
        reader, writer = os.pipe()
        os.close(reader)
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_backup_holds_the_store_and_is_never_overwritten(run: Callable[..., Ended], tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert run("control", "backup", str(copy)).code == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM organizations").fetchone() == (1,)
    again = run("control", "backup", str(copy))
    assert again.code == 2
    assert "exists already" in again.err


def test_rotating_the_master_key_prints_its_id_and_changes_the_file(run: Callable[..., Ended], tmp_path: Path) -> None:
    key = tmp_path / "control" / "master.key"
    before = key.read_bytes()
    ended = run("control", "rotate-master-key")
    assert ended.code == 0
    assert json.loads(ended.out)["resealed"] > 0
    assert key.read_bytes() != before
    assert key.read_text().strip() not in ended.out + ended.err
    assert json.loads(run("control", "rotate-master-key", "--reseal-only").out)["resealed"] == 0
    assert run("audit", "verify").code == 0
