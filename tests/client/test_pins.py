from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca
from tests.support.files import no_file_grows
from tests.support.running_up import Tunnel, tunnel_to

from penstock.client.pins import Pins, find_folder, parse_fingerprints
from penstock.client.streams import TunnelStreams
from penstock.errors import CertificateError, ConfigError
from penstock.tls import rules

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from penstock.tls.certs import Authority
    from penstock.tls.rules import CaCertificate

HOST = "echo.ab12cd34.tunnel.example.com"
NOW = datetime.now(UTC)


def anchor(authority: Authority) -> CaCertificate:
    return rules.check_ca_certificate(authority.certificate_pem, NOW)


FIRST = ca.ca("first")
OLD, STRANGER = anchor(FIRST), anchor(ca.ca("first"))  # the same name, another key
NEXT = anchor(ca.ca("next", issuer=FIRST))


def test_what_worked_once_is_believed_and_a_stranger_no_more(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins")
    assert pins.believed(HOST, [STRANGER, OLD], NOW) == (STRANGER, OLD)  # nothing worked yet
    pins.remember(HOST, [OLD], NOW)
    for later in (pins, Pins(tmp_path / "pins")):
        assert later.believed(HOST, [STRANGER, OLD], NOW) == (OLD,)
        with pytest.raises(CertificateError) as refused:
            later.believed(HOST, [STRANGER], NOW)
        assert refused.value.rule == "ca-pin"
        assert STRANGER.fingerprint in (refused.value.detail or "")
        assert "penstock pins forget" in (refused.value.hint or "")


def test_a_ca_that_a_remembered_one_signed_takes_its_place(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    pins.remember(HOST, [OLD], NOW)
    assert pins.believed(HOST, [OLD, NEXT], NOW) == (OLD, NEXT)
    pins.remember(HOST, [NEXT], NOW)
    assert Pins(tmp_path).believed(HOST, [NEXT], NOW) == (NEXT,)


def test_hosts_are_apart_and_can_be_forgotten(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    pins.remember(HOST, [OLD], NOW)
    assert pins.believed("other." + HOST.partition(".")[2], [STRANGER], NOW) == (STRANGER,)
    assert pins.hosts() == {HOST: [OLD.fingerprint]}
    assert pins.forget(HOST)
    assert not pins.forget(HOST)
    assert Pins(tmp_path).believed(HOST, [STRANGER], NOW) == (STRANGER,)


def test_a_fingerprint_given_by_hand_is_believed_alone(tmp_path: Path) -> None:
    pins = Pins(tmp_path, frozenset({NEXT.fingerprint}))
    assert pins.believed(HOST, [OLD, NEXT], NOW) == (NEXT,)
    with pytest.raises(CertificateError):
        pins.believed(HOST, [OLD], NOW)
    pins.remember(HOST, [NEXT], NOW)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_a_program_remembers_for_its_own_life() -> None:
    pins = Pins()
    pins.remember(HOST, [OLD], NOW)
    with pytest.raises(CertificateError):
        pins.believed(HOST, [STRANGER], NOW)


@pytest.mark.parametrize("fault", ["no folder can be made", "the disk is full"])
def test_where_nothing_can_be_written_a_program_remembers_for_its_own_life_and_says_so_once(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    is_full = fault == "the disk is full"
    pins = Pins(tmp_path if is_full else Path("/proc/pins"))
    with no_file_grows() if is_full else contextlib.nullcontext():
        for _ in range(2):
            pins.remember(HOST, [OLD], NOW)
    with pytest.raises(CertificateError):
        pins.believed(HOST, [STRANGER], NOW)
    (said,) = caplog.messages
    assert said.startswith(f"the CAs of {HOST} are remembered only while this program runs: cannot write")
    assert list(tmp_path.iterdir()) == []


def test_what_ran_out_explains_no_successor(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    pins.remember(HOST, [OLD], NOW)
    later = NOW + timedelta(days=20 * 365)
    assert Pins(tmp_path).believed(HOST, [STRANGER], later) == (STRANGER,)


def test_a_file_that_was_damaged_is_said_and_not_ignored(tmp_path: Path) -> None:
    (tmp_path / f"{HOST}.pem").write_text("garbage")
    with pytest.raises(ConfigError, match="does not hold certificates"):
        Pins(tmp_path).believed(HOST, [OLD], NOW)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [({}, None), ({"PENSTOCK_PINS": "off", "HOME": "/"}, None), ({"PENSTOCK_PINS": "/a"}, "/a"), ({"HOME": "/absent"}, None)],
)
def test_where_pins_are_kept(environment: dict[str, str], folder: str | None) -> None:
    found = find_folder(environment)
    assert (str(found) if found else None) == folder


def test_fingerprints_are_read_as_openssl_writes_them() -> None:
    colons = ":".join(OLD.fingerprint.upper()[i : i + 2] for i in range(0, 64, 2))
    assert parse_fingerprints(f"{colons}, {NEXT.fingerprint}") == {OLD.fingerprint, NEXT.fingerprint}
    for wrong in ("sha256", "00", "g" * 64):
        with pytest.raises(ConfigError, match="64 hexadecimal digits"):
            parse_fingerprints(wrong)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def tunnel(tmp_path: Path) -> AsyncGenerator[Tunnel]:
    async with tunnel_to(tmp_path / "up") as running:
        yield running


@pytest.mark.anyio
async def test_a_ca_that_control_changed_is_refused_before_anything_is_sent(tunnel: Tunnel, tmp_path: Path) -> None:
    host = f"echo.{tunnel.up.domain}"
    folder = tmp_path / "pins"
    streams = TunnelStreams(replace(tunnel.access, pins=folder))
    try:
        await (await streams.open(host)).start_tls()
        [file] = folder.iterdir()
        kept = file.read_text()
        file.write_text(STRANGER.pem)  # as if control had named another at the first call
        changed = TunnelStreams(replace(tunnel.access, pins=folder))
        try:
            with pytest.raises(CertificateError) as refused:
                await (await changed.open(host)).start_tls()
        finally:
            await changed.aclose()
        assert refused.value.rule == "ca-pin"
        assert file.read_text() == STRANGER.pem
        assert rules.check_ca_certificate(kept, datetime.now(UTC)).fingerprint in (refused.value.detail or "")
    finally:
        await streams.aclose()
