from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.client.access import Access, find_access, write_profile
from penstock.errors import ConfigError
from penstock.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path


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
