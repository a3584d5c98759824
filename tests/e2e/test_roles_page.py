"""docs/operations/roles.md as it stands: files written, commands typed, one after the other; only the ports are others."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.chain import stop_process

from penstock.up.options import Ports
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs/operations/roles.md"
_BLOCK = re.compile(r"^```(yaml|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_STAYS = re.compile(r"^(penstock (control --|edge|proxy|agent)|python -m penstock\.up\.sample)", re.MULTILINE)
_SECONDS = 90.0  # on a machine that does much else besides


@dataclasses.dataclass
class Typing:
    """A person with as many terminals as it takes, in one folder; what is exported is exported in all of them."""

    folder: Path
    environment: dict[str, str]
    exports: str = "set -e\n"
    staying: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def type(self, block: str) -> str:
        """What a command that ends says; nothing for one that stays."""
        script = self.exports + block
        self.exports += "".join(line for line in block.splitlines(keepends=True) if line.startswith("export "))
        if _STAYS.search(block):
            lines = script.rstrip().splitlines()
            with (self.folder / f"log-{len(self.staying)}").open("wb") as log:
                self.staying.append(self._run("\n".join([*lines[:-1], f"exec {lines[-1]}"]), log))
            return ""
        ended = self._run(script, subprocess.PIPE)
        out, _ = ended.communicate(timeout=_SECONDS)
        assert ended.returncode == 0, out.decode()
        return out.decode()

    def until_ready(self, url: str) -> None:
        """The last one that stays answers there, with anything that is not 503."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            assert self.staying[-1].poll() is None, self._said()
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except urllib.error.HTTPError as exc:
                if exc.code != 503:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        pytest.fail(self._said())

    def stop(self) -> None:
        for process in reversed(self.staying):
            stop_process(process)

    def _run(self, script: str, out: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", script], cwd=self.folder, env=self.environment, stdout=out, stderr=subprocess.STDOUT
        )

    def _said(self) -> str:
        return "\n".join(f"{log.name}\n{log.read_text()}" for log in sorted(self.folder.glob("log-*")))


@pytest.fixture
def ports() -> Ports:
    return choose_free()


@pytest.fixture
def terminals(tmp_path: Path, ports: Ports) -> Iterator[Typing]:
    """Admin ports come from the environment, as the page says that any setting may."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "ANTHROPIC_", "API_"))
    }
    environment |= {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "PENSTOCK_CONTROL_ADMIN_ADDR": str(ports.control_admin),
        "PENSTOCK_EDGE_ADMIN_ADDR": str(ports.edge_admin),
        "PENSTOCK_PROXY_ADMIN_ADDR": str(ports.proxy_admin),
        "TUNNEL_METRICS": str(ports.agent_metrics),
    }
    typing = Typing(tmp_path, environment)
    yield typing
    typing.stop()


def test_the_page_is_followed_word_by_word_to_a_call(terminals: Typing, ports: Ports, tmp_path: Path) -> None:
    page = PAGE.read_text()
    sample = choose_free().control
    moved = {"9000": sample.port} | {
        str(getattr(Ports(), name).port): getattr(ports, name).port for name in ("control", "callers", "agents", "proxy")
    }
    for port, free in moved.items():
        page = re.sub(rf"\b{port}\b", str(free), page)
    ready = iter(
        f"http://{address}"
        for address in (
            f"{ports.control_admin}/readyz",
            f"{ports.edge_admin}/readyz",
            f"{sample}/",
            f"{ports.proxy_admin}/readyz",
            f"{ports.agent_metrics}/ready",
        )
    )
    said = ""
    for kind, block in _BLOCK.findall(page):
        if kind == "yaml":
            (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
            continue
        said = terminals.type(block)
        if _STAYS.search(block):
            terminals.until_ready(next(ready))
    assert next(ready, None) is None
    assert said.splitlines()[-1] == "Hello, you! This answer came through the tunnel."
    assert oct((tmp_path / "initial.json").stat().st_mode & 0o777) == "0o600"
