"""A kept session: whose it is, and where it counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from penstock.client import sessions
from penstock.client.access import Access, find_access, write_profile
from penstock.errors import ConfigError, IdentityError
from penstock.schema.identities import Session
from penstock.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path


def session(*, lasts: timedelta = timedelta(hours=1)) -> Session:
    return Session(
        session_token="pst-session-x",
        expires_at=datetime.now(UTC) + lasts,
        user_id="user_1",
        email="a@b.example",
        organization_id=None,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    return {"HOME": str(tmp_path)}


def test_a_session_is_the_access_unless_another_platform_is_asked_for(home: dict[str, str], tmp_path: Path) -> None:
    sessions.keep("https://a.example/", session(), home)
    found = find_access(environment=home)
    assert (found.api_url, found.api_key) == ("https://a.example", Secret("pst-session-x"))
    with pytest.raises(ConfigError, match=r"other\.example"):
        find_access("https://other.example", environment=home)
    write_profile(tmp_path / ".config" / "penstock" / "profile.json", Access("https://p.example", Secret("pst-key-p")))
    assert find_access(environment=home).api_url == "https://a.example"
    assert find_access("https://p.example", environment=home).api_key == Secret("pst-key-p")


def test_a_session_that_is_over_is_said_to_be_where_there_is_nothing_else(home: dict[str, str], tmp_path: Path) -> None:
    sessions.keep("https://a.example", session(lasts=-timedelta(seconds=1)), home)
    with pytest.raises(IdentityError, match="ended at") as caught:
        find_access(environment=home)
    assert "penstock login" in (caught.value.hint or "")
    write_profile(tmp_path / ".config" / "penstock" / "profile.json", Access("https://p.example", Secret("pst-key-p")))
    assert find_access(environment=home).api_url == "https://p.example"


def test_a_file_that_is_no_session_says_what_to_do(home: dict[str, str]) -> None:
    file = sessions.keep("https://a.example", session(), home)
    file.write_text("{}")
    with pytest.raises(ConfigError, match="not a session"):
        sessions.find(home)
    with pytest.raises(ConfigError, match="no home"):
        sessions.place({})
