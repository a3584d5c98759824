"""`penstock up` as a newcomer runs it: the real command, real processes, real signals."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.command import PENSTOCK, SECONDS, Standing, environment, run, standing

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER = 'echo: hello(name="Penstock") → Hello, Penstock! This answer came through the tunnel.'
URL = re.compile(r"https://echo\.[a-z0-9]+\.tunnel\.penstock\.internal/mcp")


def url_in(text: str) -> str:
    found = URL.search(text)
    assert found is not None, text
    return found[0]


def ports_in(text: str) -> list[int]:
    return [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Standing]:
    """One that stays up in `folder`, until the last of these tests stops it."""
    with standing("up", "--free-ports", folder=folder) as started:
        started.until("Ctrl-C stops it")
        yield started


# --- while it stays up --------------------------------------------------------------------------------------------------


def test_it_shows_the_answer_the_time_and_the_url(up: Standing) -> None:
    assert ANSWER in up.said
    assert re.search(r"\d+\.\d ms through edge, agent and proxy", up.said)
    url_in(up.said)
    for role in ("control", "edge", "agent", "proxy"):
        assert role in up.said
    assert "loopback upstreams are allowed because this is `up`" in up.said


def test_another_process_calls_through_it_with_the_profile(up: Standing, folder: Path) -> None:
    called = run("call", url_in(up.said), "hello", "name=x", folder=folder)
    assert (called.returncode, called.stderr) == (0, "")
    assert called.stdout == "Hello, x! This answer came through the tunnel.\n"


@pytest.mark.e2e
def test_without_a_loopback_it_says_so_at_once(tmp_path: Path) -> None:
    alone = run("--map-root-user", "--net", PENSTOCK, "up", "--once", folder=tmp_path, command="unshare")
    assert alone.returncode == 1
    assert "penstock: this machine does not reach itself at 127.0.0.1" in alone.stderr
    assert "hint: raise loopback" in alone.stderr


@pytest.mark.e2e
def test_a_process_elsewhere_needs_to_be_told(up: Standing, folder: Path, tmp_path: Path) -> None:
    nothing = run("call", url_in(up.said), "hello", "name=x", folder=tmp_path)
    assert nothing.returncode == 2
    assert "hint: run `penstock login`, or set PENSTOCK_API_URL" in nothing.stderr
    told = run("tools", url_in(up.said), folder=tmp_path, PENSTOCK_PROFILE=str(folder / ".penstock" / "profile.json"))
    assert (told.returncode, told.stdout) == (0, "hello\tGreet someone by name.\n")


def test_the_next_steps_work_when_pasted(up: Standing, folder: Path) -> None:
    steps = dict(re.findall(r"^  (\d)\. .{16}(.*?)(?=\n  \d\. |\n\n)", up.said, re.DOTALL | re.MULTILINE))
    assert sorted(steps) == ["1", "2", "3"]

    def paste(command: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # as in the activated environment it was started from
        return subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=folder,
            env=environment(folder, PATH=path),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    first = paste(steps["1"])
    assert (first.returncode, first.stdout) == (0, "Hello, you! This answer came through the tunnel.\n"), first.stderr
    second = paste(steps["2"])
    assert (second.returncode, second.stdout) == (0, "['hello']\n"), second.stderr
    third = paste(steps["3"].replace("(stop this one first)", ""))  # this one runs, so it can only say so
    assert third.returncode == 2
    assert "another `penstock up` runs" in third.stderr


def test_a_second_up_on_the_folder_is_refused_in_one_line(up: Standing, folder: Path) -> None:
    second = run("up", "--once", "--free-ports", folder=folder)
    assert second.returncode == 2
    assert second.stdout == ""
    error, hint = second.stderr.splitlines()
    assert error == "penstock: another `penstock up` runs in .penstock"
    assert hint.startswith("  hint: ")


def test_its_secrets_are_nobody_elses_to_read(up: Standing, folder: Path) -> None:
    secret = {"profile.json", "api-key", "enrolment-token", "tunnel-token", "ca.key", "tls.key", "master.key", "edge.key"}
    kept = folder / ".penstock"
    assert kept.stat().st_mode & 0o077 == 0
    found = {file.name for file in kept.rglob("*") if file.is_file() and file.name in secret}
    assert found == secret
    for file in kept.rglob("*"):
        if file.name in secret:
            assert file.stat().st_mode & 0o077 == 0, file
    key = (kept / "api-key").read_text().strip()
    assert key not in up.said


def test_ctrl_c_stops_it_in_order_and_the_next_run_has_the_same_identities(up: Standing, folder: Path) -> None:
    ports = ports_in(up.said)
    assert up.stop(signal.SIGINT) == 0
    assert "Traceback" not in up.said, up.said
    assert "rror" not in up.said.rpartition("Ctrl-C")[2], up.said
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass  # free again

    again = run("up", "--once", "--free-ports", folder=folder)
    assert again.returncode == 0, again.stderr
    assert url_in(again.stdout) == url_in(up.said)
    assert ANSWER in again.stdout


# --- one after the other ------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_sigterm_stops_it_as_well(tmp_path: Path) -> None:
    with standing("up", "--free-ports", folder=tmp_path) as started:
        started.until("Ctrl-C stops it")
        assert started.stop(signal.SIGTERM) == 0
    assert "Traceback" not in started.said


@pytest.mark.e2e
def test_a_signal_in_the_middle_of_the_start_leaves_nothing_running(tmp_path: Path) -> None:
    with standing("up", "--free-ports", folder=tmp_path) as started:
        started.until("control ")
        assert started.stop(signal.SIGINT) in {0, 130}
    assert "Traceback" not in started.said
    for port in ports_in(started.said):
        with socket.create_server(("127.0.0.1", port)):
            pass
    again = run("up", "--once", "--free-ports", folder=tmp_path)
    assert again.returncode == 0, again.stderr


def test_once_prints_data_on_stdout_and_talk_on_stderr_and_exits_0(tmp_path: Path) -> None:
    once = run("up", "--once", "--free-ports", folder=tmp_path)
    assert once.returncode == 0, once.stderr
    lines = once.stdout.strip().splitlines()
    assert lines[0] == ANSWER
    assert re.fullmatch(r"  \d+\.\d ms through edge, agent and proxy \(and \d+ ms to connect\)", lines[1])
    assert URL.fullmatch(lines[2].strip())
    assert len(lines) == 3  # next steps are for those who stay
    assert "Traceback" not in once.stderr
    assert "\x1b" not in once.stdout + once.stderr  # colour is for terminals
