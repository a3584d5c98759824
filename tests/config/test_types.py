from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.types import HostPort, format_duration, parse_duration, parse_network, parse_secret, parse_size

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1h30m", 5400), ("500ms", 0.5), ("2160h", 7_776_000), ("1.5s", 1.5), ("0", 0), (45, 45), ("1m0.5s", 60.5)],
)
def test_durations_are_read_as_go_reads_them(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1 s", "1d", "1s2", True, None, float("inf"), float("nan"), -1])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(30, "30s"), (90, "90s"), (120, "2m"), (7_776_000, "2160h"), (0.25, "250ms"), (0, "0s")]
)
def test_durations_are_written_as_they_are_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:8080", "localhost:1", ":8080", "edge.example.com:7844"])
def test_addresses_print_as_they_were_written(text: str) -> None:
    assert str(HostPort.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "80", "host", "host:", "host:x", "::1:80", "[::g]:1", "host:70000", "host:-1", "host:\u0661"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        HostPort.parse(text)


def test_sizes_and_networks() -> None:
    assert parse_size("64KiB") == 65536
    assert parse_size("1 MB") == 1_000_000
    assert parse_size(12) == 12
    assert str(parse_network("10.1.2.3")) == "10.1.2.3/32"
    with pytest.raises(ValueError, match="host bits"):
        parse_network("10.1.2.3/8")
    with pytest.raises(ValueError, match="size"):
        parse_size("1.5MB")


@given(st.floats(0, 9e8))
def test_a_duration_that_is_written_is_read_as_the_same(seconds: float) -> None:
    taken = parse_duration(seconds)
    assert parse_duration(format_duration(taken)) == taken
    assert (taken == 0) == (seconds == 0)


def test_a_secret_is_text_or_the_file_that_holds_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    assert parse_secret(" s3cret ").reveal() == "s3cret"
    assert parse_secret({"file": str(tmp_path / "secret")}).reveal() == "s3cret"


@pytest.mark.parametrize("value", ["", " ", 5, None, {}, {"file": 5}, {"file": "a", "b": "c"}, {"path": "a"}])
def test_what_is_no_secret_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"must be text, or \{file: PATH\}"):
        parse_secret(value)


def test_a_secrets_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="absent: no such file or directory"):
        parse_secret({"file": str(tmp_path / "absent")})
    with pytest.raises(ValueError, match="binary is not text"):
        parse_secret({"file": str(tmp_path / "binary")})
