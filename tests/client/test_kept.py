"""A caller's certificate that one run leaves to the next: whose it is, how long it is used, and what is never believed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.support import ca
from tests.support.control import api, database, start_api

from penstock.client.control import ControlClient
from penstock.client.identity import CallerCredentials
from penstock.client.kept import KeptPair, find_folder
from penstock.errors import ConfigError
from penstock.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control import Api

    from penstock.tls.certs import KeyPair

__all__ = ["api", "database", "start_api"]

URL = "https://penstock.example.com"
KEY = Secret("pst-key-x")


@pytest.fixture
def kept(tmp_path: Path) -> KeptPair:
    return KeptPair(tmp_path / "callers", URL, KEY)


def only_file(folder: Path) -> Path:
    (file,) = (folder / "callers").iterdir()
    return file


def test_it_is_found_by_the_same_credential_of_the_same_platform_alone(kept: KeptPair, tmp_path: Path) -> None:
    pair, now = ca.caller(ca.ca()), datetime.now(UTC)
    assert kept.load(now) is None
    kept.keep(pair)
    found = KeptPair(tmp_path / "callers", f"{URL}/", KEY).load(now)
    assert found is not None
    assert found.certificate_pem == pair.certificate_pem
    assert found.key_pem == pair.key_pem
    for other in (KeptPair(tmp_path / "callers", URL, Secret("pst-key-y")), KeptPair(tmp_path / "callers", "https://b", KEY)):
        assert other.load(now) is None
    file = only_file(tmp_path)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert KEY.reveal() not in file.read_text() + file.name


def test_what_others_could_have_written_or_is_not_whole_or_is_over_is_none(kept: KeptPair, tmp_path: Path) -> None:
    pair, now = ca.caller(ca.ca()), datetime.now(UTC)
    kept.keep(pair)
    file = only_file(tmp_path)
    whole = file.read_text()
    assert kept.load(now + timedelta(days=400)) is None
    for text in ("", whole[: len(whole) // 2], ca.caller(ca.ca()).certificate_pem + pair.key_pem.reveal()):
        file.write_text(text)
        assert kept.load(now) is None
    file.write_text(whole)
    assert kept.load(now) is not None
    file.chmod(0o640)
    assert kept.load(now) is None
    (tmp_path / "elsewhere").write_text(whole)
    (tmp_path / "elsewhere").chmod(0o600)
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert kept.load(now) is None


def test_commands_at_once_each_find_a_whole_one(kept: KeptPair) -> None:
    authority, now = ca.ca(), datetime.now(UTC)
    pairs = [ca.caller(authority) for _ in range(4)]
    kept.keep(pairs[0])

    def rewrite(pair: KeyPair) -> bool:
        for _ in range(20):
            kept.keep(pair)
            if kept.load(now) is None:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(rewrite, pairs))


def test_one_that_is_refused_goes_and_another_commands_newer_one_stays(kept: KeptPair) -> None:
    authority, now = ca.ca(), datetime.now(UTC)
    old, new = ca.caller(authority), ca.caller(authority)
    kept.keep(old)
    kept.drop(old)
    assert kept.load(now) is None
    kept.keep(new)
    kept.drop(old)
    assert kept.load(now) is not None


def test_files_of_credentials_that_ended_do_not_pile_up(kept: KeptPair, tmp_path: Path) -> None:
    ended = KeptPair(tmp_path / "callers", URL, Secret("pst-session-of-last-week"))
    ended.keep(ca.caller(ca.ca()))
    os.utime(only_file(tmp_path), (0, 0))
    kept.keep(ca.caller(ca.ca()))
    assert only_file(tmp_path).stat().st_mtime > 0


def test_a_folder_that_takes_nothing_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    KeptPair(tmp_path / "file", URL, KEY).keep(ca.caller(ca.ca()))
    assert "not kept" in caplog.text
    assert "PENSTOCK_CALLERS" in caplog.text


def test_the_folder_is_the_users_state_and_never_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = {"HOME": str(tmp_path)}
    assert find_folder(home) == tmp_path / ".local" / "state" / "penstock" / "callers"
    assert find_folder({**home, "XDG_STATE_HOME": "/var/state"}) == tmp_path.__class__("/var/state/penstock/callers")
    assert find_folder({**home, "XDG_STATE_HOME": "state"}) == find_folder(home)
    assert find_folder({**home, "PENSTOCK_CALLERS": str(tmp_path / "c")}) == tmp_path / "c"
    for nowhere in ({**home, "PENSTOCK_CALLERS": "off"}, {}, {"HOME": "."}, {"HOME": str(tmp_path / "none")}):
        assert find_folder(nowhere) is None
    with pytest.raises(ConfigError, match="absolute"):
        find_folder({"PENSTOCK_CALLERS": "callers"})


@pytest.mark.anyio
async def test_the_next_run_asks_for_none_until_two_thirds_of_its_life(api: Api, tmp_path: Path) -> None:
    async with ControlClient(api.control.url, api.initial.api_key) as client:
        kept = KeptPair(tmp_path / "callers", api.control.url, api.initial.api_key)
        first = await CallerCredentials(client, kept=kept).pair()
        second = CallerCredentials(client, kept=kept)
        assert (await second.pair()).certificate_pem == first.certificate_pem
        assert second.is_of_another_run
        later = datetime.now(UTC) + timedelta(hours=16, minutes=1)  # of 24
        renewed = await CallerCredentials(client, kept=kept, now=lambda: later).pair()
        assert renewed.certificate_pem != first.certificate_pem
        third = CallerCredentials(client, kept=kept)
        assert (await third.pair()).certificate_pem == renewed.certificate_pem
        third.forget()
        assert (await third.pair()).certificate_pem != renewed.certificate_pem
        assert not third.is_of_another_run
