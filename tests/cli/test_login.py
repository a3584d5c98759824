"""`penstock login` and `logout`: a session in a file of one's own, and nothing of it on the screen."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from tests.support import ca

from penstock.client.kept import KeptPair
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from tests.cli.conftest import Ended

    from penstock.control.service.bootstrap import Initial


def test_a_session_is_kept_for_its_owner_alone_and_ended_by_logout(
    command: Callable[..., Ended], platform: tuple[str, Initial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, initial = platform
    password = initial.admin_password.reveal()
    file = tmp_path / ".config" / "penstock" / "session.json"
    login = ("login", "--api-url", url, "--email", initial.admin_email, "--password-stdin")

    monkeypatch.setattr("sys.stdin", io.StringIO("wrong\n"))
    refused = command(*login)
    assert refused.code == 1
    assert "sign-in failed" in refused.err
    assert not file.exists()

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
    ended = command(*login)
    assert ended.code == 0, ended.err
    assert initial.admin_email in ended.err
    assert file.stat().st_mode & 0o777 == 0o600
    kept = json.loads(file.read_text())
    assert kept["api_url"] == url
    assert kept["session_token"].startswith("pst-session-")
    assert kept["session_token"] not in ended.out + ended.err
    assert password not in ended.out + ended.err

    # The second time the platform is known.
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
    assert command("login", "--email", initial.admin_email, "--password-stdin").code == 0
    monkeypatch.setenv("PENSTOCK_CALLERS", str(tmp_path / "callers"))
    KeptPair(tmp_path / "callers", url, Secret(json.loads(file.read_text())["session_token"])).keep(ca.caller(ca.ca()))
    assert len(list((tmp_path / "callers").iterdir())) == 1
    assert command("logout").code == 0
    assert not file.exists()
    assert not list((tmp_path / "callers").iterdir())  # what a call of that session left to the next
    assert "nobody is signed in" in command("logout").err


def test_without_a_terminal_nothing_is_asked(command: Callable[..., Ended], platform: tuple[str, Initial]) -> None:
    url, initial = platform
    assert "--password-stdin" in command("login", "--api-url", url, "--email", initial.admin_email).err
    assert "--email" in command("login", "--api-url", url).err
    assert "--api-url" in command("login").err


def test_a_session_file_that_others_may_read_is_refused(
    command: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.json"
    monkeypatch.setenv("PENSTOCK_SESSION", str(file))
    file.write_text("{}")
    file.chmod(0o644)
    assert "chmod 600" in command("logout").err
    file.chmod(0o600)
    assert "penstock login" in command("logout").err


def test_a_password_is_changed_and_every_session_ends(
    command: Callable[..., Ended], platform: tuple[str, Initial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, initial = platform
    old, new = initial.operator_password.reveal(), "a longer password"
    login = ("login", "--api-url", url, "--email", initial.operator_email, "--password-stdin")

    def told(*lines: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))

    assert "penstock login" in command("password").err
    told(old)
    assert command(*login).code == 0
    told("wrong", new)
    refused = command("password", "--password-stdin")
    assert refused.code == 1, refused.err
    told(old, "short")
    assert command("password", "--password-stdin").code == 1
    told(old, new)
    changed = command("password", "--password-stdin")
    assert changed.code == 0, changed.err
    assert not (tmp_path / ".config" / "penstock" / "session.json").exists()
    assert new not in changed.out + changed.err
    told(old)
    assert command(*login).code == 1
    told(new)
    assert command(*login).code == 0
