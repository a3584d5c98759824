"""`penstock stack` as a developer runs it: a process of its own, against a platform in another, with a real signal."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
from tests.support.command import run, standing

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]  # four processes


def test_a_second_private_side_joins_a_platform_and_its_server_is_called_from_a_third_process(tmp_path: Path) -> None:
    platform, laptop = tmp_path / "platform", tmp_path / "laptop"
    platform.mkdir()
    laptop.mkdir()
    with standing("up", "--free-ports", folder=platform) as up:
        up.until("Ctrl-C stops it")
        url = re.search(r"http://127\.0\.0\.1:\d+", up.said)
        sample = re.search(r"echo → (http://127\.0\.0\.1:\d+)", up.said)
        assert url is not None
        assert sample is not None
        keys = {
            "API_TOKEN": (platform / ".penstock" / "tunnels-key").read_text().strip(),
            "PENSTOCK_API_KEY": (platform / ".penstock" / "api-key").read_text().strip(),
            "PENSTOCK_API_URL": url[0],
        }
        command = ("stack", "--free-ports", "--route", f"mine={sample[1]}")

        once = run(*command, "--once", folder=laptop, **keys)
        assert once.returncode == 0, once.stderr
        assert "mine: tools/list → 1 tool: hello" in once.stdout
        assert "create a tunnel" in once.stderr
        for secret in ("API_TOKEN", "PENSTOCK_API_KEY"):
            assert keys[secret] not in once.stdout + once.stderr

        with standing(*command, folder=laptop, PENSTOCK_API_URL=url[0]) as stack:  # the folder is enough
            stack.until("Ctrl-C stops it")
            assert "no API key to prove a call with is known here" in stack.said
            called = re.search(r"https://mine\.\S+", stack.said)
            assert called is not None
            answered = run("call", called[0], "hello", "name=you", folder=laptop, **keys)
            assert (answered.returncode, answered.stdout) == (0, "Hello, you! This answer came through the tunnel.\n")
            again = run(*command, "--once", folder=laptop, **keys)
            assert again.returncode == 2
            assert "another `penstock stack` runs in" in again.stderr
            assert stack.stop(signal.SIGTERM) == 0
            assert "Traceback" not in stack.said
