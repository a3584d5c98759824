"""The wheel alone: what is in it, and that a bare environment with nothing else runs from it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.support.command import run
from tests.support.venvs import Venv

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=60)
    [built] = out.glob("penstock-*.whl")
    return built


def test_it_holds_all_that_runs_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "penstock/py.typed",
        "penstock/control/storage/migrations/env.py",
        "penstock/control/storage/migrations/versions/0001_first.py",
    } <= names
    source = {
        f"penstock/{file.relative_to(ROOT / 'src' / 'penstock')}"
        for file in (ROOT / "src" / "penstock").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if not name.partition("/")[0].endswith(".dist-info")} == source
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_every_text_in_it_is_free_of_this_machines_paths(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            assert str(ROOT).encode() not in archive.read(name), name


@pytest.fixture(scope="module")
def complete(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    venv = Venv.make(tmp_path_factory.mktemp("complete") / "venv")
    venv.install(f"{wheel}[up]")
    return venv


@pytest.fixture(scope="module")
def client_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    venv = Venv.make(tmp_path_factory.mktemp("client") / "venv")
    venv.install(str(wheel))
    return venv


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_up_once_runs_from_the_wheel_alone(complete: Venv, tmp_path: Path) -> None:
    once = run("up", "--once", "--free-ports", folder=tmp_path, command=complete.command("penstock"))
    assert once.returncode == 0, once.stderr
    assert "Hello, Penstock!" in once.stdout
    assert "Traceback" not in once.stderr


@pytest.mark.e2e
@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", ["up", "control", "edge", "agent", "proxy", "call", "tools"])
def test_without_its_extra_a_command_says_what_to_install(client_only: Venv, tmp_path: Path, command: str) -> None:
    url = "https://echo.abcdefgh.tunnel.example.com/mcp"
    arguments = {"call": [url, "hello"], "tools": [url]}.get(command, [])
    ended = run(command, *arguments, folder=tmp_path, command=client_only.command("penstock"))
    assert ended.returncode == 2, ended.stderr
    extra = "mcp" if command in {"call", "tools"} else command
    assert ended.stderr.rstrip().endswith(f"pip install '.[{extra}]'")
    assert "Traceback" not in ended.stderr


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_the_client_library_needs_no_extra(client_only: Venv, tmp_path: Path) -> None:
    script = "import penstock.client as p; p.TunnelTransport(api_url='https://a.example', api_key='k'); print('ok')"
    ran = run("-W", "error", "-c", script, folder=tmp_path, command=client_only.command("python"))
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr


@pytest.mark.e2e
@pytest.mark.timeout(400)
@pytest.mark.parametrize("role", ["agent", "edge", "proxy", "control"])
def test_a_roles_own_extra_is_enough_for_it(wheel: Path, tmp_path: Path, role: str) -> None:
    venv = Venv.make(tmp_path / "venv")
    venv.install(f"{wheel}[{role}]")
    ended = run(role, "--config", "none.yaml", folder=tmp_path, command=venv.command("penstock"))
    assert ended.returncode == 2
    assert "none.yaml" in ended.stderr  # it got as far as its settings
