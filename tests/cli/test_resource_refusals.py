"""What goes wrong with a command on the platform's API is one line and what to do; 1 where refused, 2 where wrong."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Ended

    from penstock.control.service.bootstrap import Initial

URL = "https://penstock.example.com"


@pytest.fixture
def run(
    command: Callable[..., Ended], platform: tuple[str, Initial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """With the first Tunnels API key in a file, and nobody at a terminal."""
    (tmp_path / "key").write_text(platform[1].tunnels_key.reveal() + "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def run(*arguments: str) -> Ended:
        return command(*arguments, "--api-url", platform[0], "--api-key-file", str(tmp_path / "key"))

    return run


def one_refusal(ended: Ended, code: int, *texts: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert ended.err.startswith("penstock: ")
    assert "\n  hint: " in ended.err
    assert len(ended.err.splitlines()) <= 3
    for text in texts:
        assert text in ended.err


def test_what_the_platform_refuses_exits_1_with_its_reason(run: Callable[..., Ended], tmp_path: Path) -> None:
    one_refusal(run("tunnels", "get", "tnl_01Nobody"), 1, "not")
    (tmp_path / "ca.crt").write_text("garbage")
    tunnel = json.loads(run("tunnels", "create", "--json").out)["id"]
    one_refusal(run("tunnels", "certificates", "create", tunnel, "--ca-certificate-file", "ca.crt"), 1, "ca_certificate_pem")
    one_refusal(run("workspaces", "create", "--name", "x"), 1, f"key in {tmp_path / 'key'} may not", "org:admin")
    one_refusal(run("tunnels", "create", "--workspace", "wrkspc_01Other"), 1, "anthropic-workspace-id")


def test_what_is_wrong_with_the_command_itself_exits_2_before_anything_is_asked(
    run: Callable[..., Ended], command: Callable[..., Ended], tmp_path: Path
) -> None:
    one_refusal(run("tunnels", "get", "../users"), 2, "is not an id")
    one_refusal(run("tunnels", "certificates", "create", "tnl_1", "--ca-certificate-file", "nowhere"), 2, "nowhere")
    one_refusal(run("tunnels", "reveal-token", "tnl_1", "--secret-file", "nowhere/x"), 2, "--secret-file")
    one_refusal(run("federation", "rules", "update", "fdrl_1", "--claim", "x"), 2, "NAME=VALUE")
    (tmp_path / "jwks.json").write_text("{")
    one_refusal(run("federation", "issuers", "update", "fdis_1", "--jwks-file", "jwks.json"), 2, "not JSON")
    for arguments in (("users", "create"), ("users", "create", "--role", "king"), ("tunnels", "get"), ("tunnels", "burn")):
        assert run(*arguments).code == 2
    leaked = command("tunnels", "list", "--api-key", "pst-tunnels-secret")
    assert leaked.code == 2, "a key is never taken from the command line"


def test_what_cannot_be_undone_is_asked_about_or_agreed_to_beforehand(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel = json.loads(run("tunnels", "create", "--json").out)["id"]
    one_refusal(run("tunnels", "archive", tunnel), 2, f"this would archive tunnel {tunnel} for ever", "--yes")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = run("tunnels", "archive", tunnel)
    assert (refused.code, refused.out) == (1, "")
    assert f"archive tunnel {tunnel} for ever? [y/N]" in refused.err
    assert json.loads(run("tunnels", "get", tunnel, "--json").out)["archived_at"] is None
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert run("tunnels", "archive", tunnel).code == 0


def test_the_credential_is_the_key_given_then_the_session_and_never_one_of_another_platform(
    command: Callable[..., Ended], platform: tuple[str, Initial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, initial = platform
    one_refusal(command("tunnels", "list"), 2, "is not known", "penstock login")

    # The SDK's variables hold with their URL only.
    monkeypatch.setenv("ANTHROPIC_API_KEY", initial.tunnels_key.reveal())
    one_refusal(command("tunnels", "list", "--api-url", url), 2)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", URL)
    one_refusal(command("tunnels", "list", "--api-url", url), 2)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    assert command("tunnels", "list").code == 0

    # A session before them, while it lasts and where it is from.
    session = tmp_path / ".config" / "penstock" / "session.json"
    session.parent.mkdir(parents=True)
    kept = {"api_url": url, "session_token": "pst-session-x", "email": "ada@example.com"}

    def keep(until: datetime) -> None:
        session.write_text(json.dumps(kept | {"expires_at": until.isoformat()}))
        session.chmod(0o600)

    keep(datetime.now(UTC) + timedelta(hours=1))
    one_refusal(command("tunnels", "list"), 1, "session of ada@example.com is not accepted")
    monkeypatch.delenv("ANTHROPIC_BASE_URL")
    one_refusal(command("tunnels", "list", "--api-url", URL), 2, URL)
    keep(datetime.now(UTC) - timedelta(hours=1))
    one_refusal(command("tunnels", "list"), 1, "ended at", "penstock login")

    # A key of Penstock's own before all, and it needs its platform named.
    monkeypatch.setenv("PENSTOCK_API_KEY", initial.tunnels_key.reveal())
    one_refusal(command("tunnels", "list"), 2, "--api-url")
    monkeypatch.setenv("PENSTOCK_API_URL", url)
    assert command("tunnels", "list").code == 0
    (tmp_path / "key").write_text("\n")
    one_refusal(command("tunnels", "list", "--api-key-file", "key"), 2, "is empty")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{initial.api_key.reveal()}\n"))
    refused = command("tunnels", "list", "--api-key-file", "-")
    one_refusal(refused, 1, "lacks the scope")
    assert initial.api_key.reveal() not in refused.err


def test_a_platform_that_is_not_there_or_is_something_else_is_told_plainly(
    command: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("pst-tunnels-x")
    one_refusal(command("tunnels", "list", "--api-url", "http://127.0.0.1:9", "--api-key-file", "key"), 1, "nothing listens")
    one_refusal(command("tunnels", "list", "--api-url", "ftp://x", "--api-key-file", "key"), 2, "not the URL of an API")
