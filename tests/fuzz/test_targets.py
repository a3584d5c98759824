"""Every fuzz target, for a moment: `make fuzz` has the patience."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import h11
import pytest
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, given, settings

from fuzz import messages
from penstock.proxy import bodies

if TYPE_CHECKING:
    from fuzz.targets import Target


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_no_input_breaks_it(target: Target) -> None:
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(target.inputs)
    def check(drawn: object) -> None:
        target.check(drawn)

    check()


def test_what_it_is_told_to_run_it_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "tokens", "--seconds", "0.2"], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tokens: ")


def test_two_parsers_that_differ_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target can fail: with a decoder that takes a chunk's size in decimal it does."""
    monkeypatch.setattr(bodies, "int", lambda text, base=10: int(text, 10 if base == 16 else base), raising=False)
    with pytest.raises((AssertionError, h11.RemoteProtocolError)):
        messages.request(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789\r\n0\r\n\r\n")
