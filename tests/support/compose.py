"""The Compose deployments as a user runs them: a copy of the folder, `.env`, and the `docker compose` of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parents[2]
POSTGRES = "penstock-test-postgres:17"
MINUTES = 300.0  # the first start builds and creates everything


def docker(*arguments: str, check: bool = True, **variables: str) -> str:
    """What it prints on stdout; AssertionError with both outputs when it fails."""
    return _run(["docker", *arguments], Path.cwd(), variables, check=check)


def image(python: str, version: str, name: str = "penstock") -> str:
    """The image of this tree, built by `make image`."""
    made = f"{name}:{version}"
    _run(["make", "image", f"IMAGE={made}", f"IMAGE_ARGS=--quiet --build-arg PYTHON_IMAGE={python}"], ROOT, {}, check=True)
    return made


def postgres_image(python: str) -> str:
    """What stands in for the official image where no registry is."""
    folder = ROOT / "tests/e2e/compose"
    given = ("--build-arg", f"PYTHON_IMAGE={python}", "--file", str(folder / "postgres.Dockerfile"))
    docker("build", "--quiet", "--tag", POSTGRES, *given, str(folder))
    return POSTGRES


def stock_agent_image(folder: Path, python: str, binary: str) -> str:
    """A stock agent's binary where its image cannot be had; `folder` is empty."""
    shutil.copy(ROOT / "tests/e2e/compose/cloudflared.Dockerfile", folder / "Dockerfile")
    shutil.copy(binary, folder / "cloudflared")
    docker("build", "--quiet", "--tag", "cloudflared:test", "--build-arg", f"PYTHON_IMAGE={python}", str(folder))
    return "cloudflared:test"


@dataclass
class Project:
    """One of `deploy/compose`, copied to `folder`."""

    name: str
    folder: Path
    files: Sequence[Path | str] = ()
    variables: dict[str, str] = field(default_factory=dict)

    @classmethod
    def copy(cls, kind: str, folder: Path, *files: Path | str) -> Project:
        shutil.copytree(ROOT / "deploy" / "compose" / kind, folder)
        return cls(f"penstock-test-{kind}", folder, ("compose.yaml", *files))

    def __call__(self, *arguments: str, check: bool = True, **variables: str) -> str:
        """`docker compose ARGUMENTS` in the folder."""
        files = [part for file in self.files for part in ("--file", str(file))]
        command = ["docker", "compose", "--project-name", self.name, *files, "--profile", "*", *arguments]
        if arguments[:1] == ("up",):
            command = [part for part in command if part not in {"--profile", "*"}]
        return _run(command, self.folder, {**self.variables, **variables}, check=check)

    def environment(self, values: Mapping[str, str]) -> None:
        """Write `.env`."""
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of the service's container."""
        [found] = json.loads(docker("inspect", self("ps", "--all", "--quiet", service).strip()))
        return dict(found)

    def healthy(self, service: str, seconds: float = 60.0) -> float:
        """Wait until the image's health check passes; the seconds that took."""
        return until(lambda: self.container(service)["State"]["Health"]["Status"] == "healthy", f"{service} healthy", seconds)


def until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> float:
    """Ask until it is so; the seconds that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not {what} within {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - began


def _run(command: Sequence[str], folder: Path, variables: Mapping[str, str], *, check: bool) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "TUNNEL_"))}
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**kept, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MINUTES,
        check=False,
    )
    if check:
        assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout
