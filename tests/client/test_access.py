from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.client import sessions
from penstock.client.access import Access, find_access, write_profile
from penstock.errors import ConfigError
from penstock.schema.identities import Session
from penstock.secret import Secret


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".penstock").mkdir()
    file = tmp_path / ".penstock" / "profile.json"
    write_profile(file, Access("http://127.0.0.1:8700", Secret("pst-key-profile")))
    return file


def test_arguments_win_over_the_environment_and_the_environment_over_the_profile(profile: Path) -> None:
    environment = {"PENSTOCK_API_URL": "https://e.example", "PENSTOCK_API_KEY": "from-environment"}
    assert find_access("https://a.example/", "k", environment=environment) == Access("https://a.example", Secret("k"))
    assert find_access(environment=environment) == Access("https://e.example", Secret("from-environment"))
    assert find_access(environment={}) == Access("http://127.0.0.1:8700", Secret("pst-key-profile"))


def test_one_order_holds_and_what_was_found_says_where_it_is_from(profile: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.json"
    write_profile(named, Access("https://named.example", Secret("n")))
    write_profile(at_home(tmp_path), Access("https://home.example", Secret("h")))
    at_login = Session(
        session_token="pst-session-x",
        expires_at=datetime.now(UTC) + timedelta(hours=1),
        user_id="user_1",
        email="ada@example.com",
        organization_id=None,
    )
    environment = {
        "HOME": str(tmp_path),
        "PENSTOCK_API_URL": "https://e.example",
        "PENSTOCK_API_KEY": "k",
        "PENSTOCK_PROFILE": str(named),
        "ANTHROPIC_BASE_URL": "https://sdk.example",
        "ANTHROPIC_AUTH_TOKEN": "a",
    }
    session = sessions.keep("https://session.example", at_login, environment)

    def found() -> tuple[str, str]:
        access = find_access(environment=environment)
        return access.api_url, access.source

    given = find_access(api_key="g", source="key in a file", environment=environment)
    assert (given.api_url, given.source) == ("https://e.example", "key in a file")
    assert found() == ("https://e.example", "key in PENSTOCK_API_KEY")
    del environment["PENSTOCK_API_KEY"], environment["PENSTOCK_API_URL"]
    assert found() == ("https://named.example", f"key of the profile {named}")
    del environment["PENSTOCK_PROFILE"]
    assert found() == ("http://127.0.0.1:8700", "key of the profile .penstock/profile.json")
    profile.unlink()
    assert found() == ("https://session.example", "session of ada@example.com")
    session.unlink()
    assert found() == ("https://home.example", f"key of the profile {at_home(tmp_path)}")
    at_home(tmp_path).unlink()
    assert found() == ("https://sdk.example", "key in ANTHROPIC_AUTH_TOKEN")
    del environment["ANTHROPIC_BASE_URL"]
    with pytest.raises(ConfigError):
        find_access(environment=environment)


@pytest.mark.parametrize(("by", "named"), [("PENSTOCK_CA_FILE", "PENSTOCK_CA_FILE"), (None, "--ca-file")])
def test_a_ca_file_that_cannot_be_used_is_told_by_what_names_it(by: str | None, named: str) -> None:
    environment = {"PENSTOCK_API_URL": "https://e.example", "PENSTOCK_API_KEY": "k", **({by: "nowhere.crt"} if by else {})}
    with pytest.raises(ConfigError, match=f"{named}: open nowhere.crt: no such file"):
        find_access(ca_file=None if by else Path("nowhere.crt"), environment=environment)


def at_home(folder: Path) -> Path:
    (folder / ".config" / "penstock").mkdir(parents=True, exist_ok=True)
    return folder / ".config" / "penstock" / "profile.json"


def test_a_profiles_key_is_never_sent_to_another_platform(profile: Path) -> None:
    with pytest.raises(ConfigError, match=r"evil\.example"):
        find_access("https://evil.example", environment={})


def test_a_key_without_its_platform_is_never_sent_to_a_profiles(profile: Path) -> None:
    for given, environment in ((None, {"PENSTOCK_API_KEY": "k"}), ("k", {}), ("k", {"PENSTOCK_PROFILE": str(profile)})):
        with pytest.raises(ConfigError, match="which platform the key is for") as caught:
            find_access(api_key=given, environment=environment)
        assert "PENSTOCK_API_URL" in (caught.value.hint or "")


def test_a_profile_others_can_read_is_refused(profile: Path) -> None:
    profile.chmod(0o644)
    with pytest.raises(ConfigError, match="others") as caught:
        find_access(environment={})
    assert caught.value.hint == "chmod 600 .penstock/profile.json"


def test_the_first_profile_named_by_the_environment_counts(profile: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    write_profile(other, Access("https://other.example", Secret("o")))
    assert find_access(environment={"PENSTOCK_PROFILE": str(other)}).api_url == "https://other.example"
    with pytest.raises(ConfigError, match="no such file"):
        find_access(environment={"PENSTOCK_PROFILE": str(tmp_path / "none")})


def test_the_home_profile_is_the_last_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".config" / "penstock").mkdir(parents=True)
    write_profile(tmp_path / ".config" / "penstock" / "profile.json", Access("https://home.example", Secret("h")))
    assert find_access(environment={"HOME": str(tmp_path)}).api_url == "https://home.example"


def test_nothing_known_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_access(environment={"HOME": str(tmp_path)})
    assert "PENSTOCK_API_URL" in (caught.value.hint or "")


def test_a_broken_profile_is_refused_without_its_content(profile: Path) -> None:
    profile.write_text('{"api_key": "pst-key-profile"}')
    with pytest.raises(ConfigError, match="not a profile") as caught:
        find_access(environment={})
    assert "pst-key" not in str(caught.value)
