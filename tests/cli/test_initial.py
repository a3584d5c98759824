from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Ended


def _config(folder: Path) -> str:
    (folder / "control.yaml").write_text(f"data_dir: {folder}/control\n")
    return str(folder / "control.yaml")


def test_what_init_made_is_kept_where_it_is_asked_for_and_not_printed(command: Callable[..., Ended], tmp_path: Path) -> None:
    ended = command("control", "init", "--config", _config(tmp_path), "--output", f"dir:{tmp_path}/first")
    assert (ended.code, ended.out) == (0, "")
    kept = {file.name: file.read_text() for file in (tmp_path / "first").iterdir() if not file.name.startswith(".")}
    assert {"api-key", "tunnels-key", "enrolment-token", "operator-password", "admin-password"} <= set(kept)
    assert kept["api-key"].startswith("pst-")
    assert not any(value in ended.err for name, value in kept.items() if name.endswith(("key", "token", "password")))
    assert {(tmp_path / "first" / name).stat().st_mode & 0o777 for name in kept} == {0o600}


def test_a_second_init_is_refused_unless_it_may_be_content(command: Callable[..., Ended], tmp_path: Path) -> None:
    config = _config(tmp_path)
    assert json.loads(command("control", "init", "--config", config).out)["api_key"]
    assert command("control", "init", "--config", config).code == 2
    content = command("control", "init", "--config", config, "--if-needed")
    assert (content.code, content.out) == (0, "")


def test_nothing_is_made_where_it_could_not_be_kept(command: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = _config(tmp_path)
    refused = command("control", "init", "--config", config, "--output", f"dir:{tmp_path}/file/folder")
    assert refused.code == 2
    assert not (tmp_path / "control").exists()
