"""Whoever names a wrong file, in a setting or a flag, is told which setting, which file, and what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.support import ca
from tests.support.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Ended

ANY: Final = "127.0.0.1:0"
TLS: Final = {"cert_file": "tls.crt", "key_file": "tls.key"}
ACME: Final = {"agree_to_terms": True, "names": ["api.example.com"], "listen_addr": ANY}
CONTROL: Final = {"data_dir": "control", "listen_addr": ANY, "admin_addr": ANY}
EDGE: Final = {
    "control_url": "https://127.0.0.1:9",
    "enrolment_token_file": "token",
    "state_dir": "state",
    "callers_addr": ANY,
    "agents_addr": ANY,
    "admin_addr": ANY,
}
PROXY: Final = {
    "listen_addr": ANY,
    "admin_addr": ANY,
    "tunnel_domain": ca.DOMAIN,
    "tls": TLS,
    "routes": {"echo": {"url": "https://127.0.0.1:9"}},
}
SETTINGS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "control tls.cert_file": ("tls.cert_file", {**CONTROL, "tls": TLS}),
    "control tls.key_file": ("tls.key_file", {**CONTROL, "tls": TLS}),
    "control oidc.ca_file": ("oidc.ca_file", {**CONTROL, "oidc": {"issuer_url": "https://idp.example.com", "client_id": "x"}}),
    "control acme.ca_file": ("acme.ca_file", {**CONTROL, "acme": ACME}),
    "control master_key_file": ("master_key_file", CONTROL),
    "edge control_ca_file": ("control_ca_file", EDGE),
    "edge enrolment_token_file": ("enrolment_token_file", EDGE),
    "proxy tls.cert_file": ("tls.cert_file", PROXY),
    "proxy tls.key_file": ("tls.key_file", PROXY),
    "proxy callers.ca_file": ("callers.ca_file", {**PROXY, "callers": {"mode": "require"}}),
    "proxy upstream.tls.ca_file": ("upstream.tls.ca_file", PROXY),
    "agent token_file": ("token_file", {"metrics": ANY}),
    "agent cacert": ("cacert", {"metrics": ANY, "token_file": "tunnel-token"}),
}
WRONG: Final = {
    "nowhere/file": "no such file or directory|no master key",
    "folder": "is a directory",
    "empty": "is empty|holds no CA certificate|holds no PEM|no master key|certificates cannot be read",
    "prose": "holds no|not base64|certificates cannot be read",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a role needs to come as far as the file that is wrong."""
    pair = ca.server(ca.ca())
    (tmp_path / "tls.crt").write_text(pair.certificate_pem)
    (tmp_path / "tls.key").write_text(pair.key_pem.reveal())
    (tmp_path / "token").write_text("pst-enrol-x\n")
    (tmp_path / "tunnel-token").write_text(Site(tmp_path).token("127.0.0.1:9").reveal())
    (tmp_path / "folder").mkdir()
    for name, text in (("empty", ""), ("prose", "This is\nnot what is meant.\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@pytest.mark.parametrize("named", SETTINGS)
def test_a_wrong_file_is_told_by_its_setting_and_its_path_with_what_to_do(
    command: Callable[..., Ended], folder: Path, named: str
) -> None:
    role, _, _ = named.partition(" ")
    path, settings = SETTINGS[named]
    if role == "control":
        (folder / "control.yaml").write_text(json.dumps(CONTROL))
        assert command("control", "init", "--config", "control.yaml").code == 0
    for file, reasons in WRONG.items():
        (folder / "try.yaml").write_text(json.dumps(with_setting(settings, path, file)))
        ended = command(role, "--config", "try.yaml")
        assert ended.code == 2, ended
        told, *more = [line for line in ended.err.splitlines() if not line.startswith("{")]
        assert told.startswith(f"penstock: {path}: "), told
        assert file in told, told
        assert any(reason in told for reason in reasons.split("|")), told
        assert any(line.startswith("  hint: ") for line in more), more
        assert "stopped" not in ended.err
        assert "stopped" not in ended.out


def with_setting(settings: dict[str, Any], path: str, value: str) -> dict[str, Any]:
    """A copy with one setting changed."""
    first, _, rest = path.partition(".")
    inner = with_setting(settings.get(first, {}), rest, value) if rest else value
    return {**settings, first: inner}
