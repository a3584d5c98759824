"""docs/guides/systemd.md as it stands, on a host of its own that systemd runs: every unit, a call through them, and an end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.support.compose import docker, until
from tests.support.pages import ROOT, Page
from tests.support.sides import python_image
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PAGE = Page("guides/systemd.md")
NAME = "penstock-test-systemd"
UNITS = ("control", "edge", "proxy", "agent")
_EXTRAS = ".[agent,proxy,edge,control]"
_MAY = (
    "--cap-add=SYS_ADMIN",
    "--cap-add=SYS_PTRACE",
    "--security-opt=seccomp=unconfined",
    "--cgroupns=private",
    "--tmpfs=/run",
)


@dataclass
class Host:
    """The container, and root's shell in it."""

    root: Terminal
    first: dict[str, str] = field(default_factory=dict)

    def says(self, *command: str) -> str:
        return docker("exec", NAME, *command, check=False).strip()

    def works(self) -> bool:
        """Whether the sample's tool answers through the tunnel."""
        domain = self.says("cat", "/var/lib/penstock/stack/tunnel-domain")
        access = {
            "PENSTOCK_API_URL": "http://127.0.0.1:8700",
            "PENSTOCK_API_KEY": self.first["api_key"],
            "HOME": str(self.root.folder),  # a caller keeps there what it pins, and this one is no part of the page
        }
        given = [f"--env={name}={value}" for name, value in access.items()]
        call = ("/opt/penstock/bin/penstock", "call", f"https://echo.{domain}/mcp", "hello", "name=you")
        return docker("exec", *given, NAME, *call, check=False).startswith("Hello, you!")

    def until(self, true: Callable[[], bool], what: str) -> None:
        try:
            until(true, what, 90)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.says('journalctl', '--no-pager', '--lines=60')}") from None

    def write(self, index: int) -> None:
        """One of the page's files, where it says."""
        block = PAGE.blocks(language="yaml")[index]
        path = block.partition("\n")[0].removeprefix("# ")
        self.root.type(f"cat > {path} <<'END'\n{block}END\n")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    [wheel] = folder.glob("penstock-*.whl")
    context = str(ROOT / "tests/e2e/systemd")
    docker("build", "--quiet", "--tag", NAME, "--build-arg", f"PYTHON_IMAGE={python_image()}", context)
    docker("run", "--detach", "--name", NAME, *_MAY, "--volume", f"{folder}:{folder}", "--workdir", str(folder), NAME)
    changes = {_EXTRAS: f"{wheel}[agent,proxy,edge,control,mcp]", "https://penstock.example.com": "http://127.0.0.1:8700"}
    try:
        until(lambda: docker("exec", NAME, "systemctl", "is-system-running", check=False).strip() == "running", "up: systemd")
        with Terminal(folder, {}, changes=changes, shell=["docker", "exec", "--interactive", NAME, "sh"], notes=folder) as root:
            yield Host(root)
    finally:
        docker("rm", "--force", "--volumes", NAME)


def test_control_and_edge_are_up_as_the_page_says(host: Host) -> None:
    host.root.type(PAGE.commands("host"))
    host.write(0)
    host.write(1)
    host.root.type(PAGE.commands("platform"))
    host.first = json.loads((host.root.folder / "first.json").read_text())
    host.until(lambda: "200" in host.says("/opt/penstock/bin/python", "-c", _READY), "ready: the edge")


_READY = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8444/readyz').status)"


def test_proxy_and_agent_are_up_as_the_page_says_and_a_call_goes_through(host: Host) -> None:
    sample = ("/opt/penstock/bin/python", "-m", "penstock.up.sample", "--port", "9000")
    docker("exec", "--detach", NAME, *sample)
    host.write(2)
    host.root.changes["pst-…"] = host.first["tunnels_key"]
    host.root.type(PAGE.commands("private"))
    host.until(host.works, "answering")


def test_no_unit_runs_as_root_and_no_one_else_reads_a_secret(host: Host) -> None:
    for unit in UNITS:
        number = host.says("systemctl", "show", "--property", "MainPID", "--value", f"penstock-{unit}")
        user = host.says("stat", "--format", "%U %u", f"/proc/{number}")
        assert user.split()[1] != "0", unit
        environment = host.says("sh", "-c", f"tr '\\0' '\\n' < /proc/{number}/environ; tr '\\0' ' ' < /proc/{number}/cmdline")
        assert not [value for name, value in host.first.items() if name.endswith(("_key", "_token")) and value in environment]
    modes = host.says("stat", "--format", "%a", "/etc/penstock/tunnel-token", "/etc/penstock/enrolment-token")
    assert modes.split() == ["600", "600"]


def test_token_certificate_and_programs_are_changed_as_the_page_says(host: Host) -> None:
    token, certificate = (host.says("sha256sum", f"/var/lib/penstock/stack/{name}") for name in ("tunnel-token", "tls.crt"))
    host.root.type(PAGE.commands("rotate", "renew"))
    assert host.says("sha256sum", "/var/lib/penstock/stack/tunnel-token") != token
    assert host.says("sha256sum", "/var/lib/penstock/stack/tls.crt") == certificate  # 720h are left
    host.until(host.works, "answering")
    host.root.type(PAGE.commands("upgrade"))
    host.until(host.works, "answering")


def test_what_is_taken_down_leaves_nothing(host: Host) -> None:
    host.root.type(PAGE.commands("down"))
    assert host.says("systemctl", "list-units", "--all", "--plain", "--no-legend", "penstock*") == ""
    left = host.says("sh", "-c", "find / -xdev -iname '*penstock*' -not -path '/proc/*' -not -path '/sys/*'")
    assert [path for path in left.splitlines() if not path.startswith(str(host.root.folder))] == []
