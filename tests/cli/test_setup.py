"""`penstock setup …` as typed: exit codes, what goes to stdout, and what a person is told."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ca
from tests.support.command import run
from tests.support.control import database, start_api
from tests.support.provisioned import write_offline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Ended
    from tests.support.control import Api

__all__ = ["database", "start_api"]

URL = "http://127.0.0.1:9"  # discard: nothing answers there
RULE = {"ANTHROPIC_FEDERATION_RULE_ID": "fdrl_1", "ANTHROPIC_ORGANIZATION_ID": "o"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "API_", "TUNNEL_", "KUBERNETES_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["init"], {}, "--api-url is required"),
        (["init", "--api-url", URL], {}, "--output is required outside Kubernetes"),
        (["init", "--api-url", URL, "--output", "/data"], {}, "neither dir:PATH nor k8s-secret:NAME"),
        (["init", "--api-url", URL, "--output", "k8s-secret:x"], {}, "works in a pod only"),
        (["init", "--api-url", URL, "--output", "dir:d"], {}, "there is no credential"),
        (["init", "--api-url", URL, "--output", "dir:d"], {**RULE, "API_TOKEN": "k"}, "are both set"),
        (["init", "--api-url", URL, "--output", "dir:d"], RULE, "ANTHROPIC_IDENTITY_TOKEN_FILE or ANTHROPIC_IDENTITY_TOKEN"),
        (
            ["init", "--api-url", URL, "--output", "dir:d"],
            {**RULE, "ANTHROPIC_IDENTITY_TOKEN": "a.b.c", "ANTHROPIC_IDENTITY_TOKEN_FILE": "f"},
            "are both set",
        ),
        (
            ["init", "--api-url", URL, "--output", "dir:d"],
            {**RULE, "ANTHROPIC_IDENTITY_TOKEN_FILE": "absent"},
            "there is no identity token in absent",
        ),
        (["init", "--output", "dir:d"], {"API_URL": "nonsense", "API_TOKEN": "k"}, "is not the URL of an API"),
        (["init", "--api-url", URL, "--output", "dir:d", "--cert-duration", "90d"], {"API_TOKEN": "k"}, "--cert-duration"),
        (["init", "--api-url", URL, "--output", "dir:d", "--cert-duration", "0"], {"API_TOKEN": "k"}, "is over before"),
        (["init", "--api-url", URL, "--output", "dir:d", "--key-type", "dsa"], {"API_TOKEN": "k"}, "not rsa or ecdsa"),
        (["init", "--api-url", URL, "--output", "dir:d", "--api-ca-file", "absent"], {"API_TOKEN": "k"}, "absent"),
        (["renew-cert", "--output", "dir:d", "--renew-before", "soon"], {}, "--renew-before"),
        (["renew-cert", "--output", "dir:d"], {}, "holds no CA to renew with"),
        (["rotate-ca", "--output", "dir:d"], {}, "--api-url is required"),
        (["rotate-ca", "--api-url", URL, "--output", "dir:d"], {}, "there is no credential"),
        (["rotate-ca", "--api-url", URL, "--output", "dir:d"], {"API_TOKEN": "k"}, "holds no private side"),
        (["rotate-ca", "--api-url", URL, "--output", "dir:d", "--settle", "soon"], {"API_TOKEN": "k"}, "--settle"),
        (["check", "absent"], {}, "is not a directory"),
        (["check", "--output", "dir:absent"], {}, "is not a directory"),
        (["check", "here", "--output", "dir:there"], {}, "are both given"),
        (["check"], {}, "--output is required outside Kubernetes"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_said_in_one_line_and_exits_2(
    command: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variables: dict[str, str],
    said: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = command("setup", *arguments)
    assert ended.code == 2
    assert said in ended.err.splitlines()[0]
    assert ended.out == ""


def test_a_platform_that_does_not_answer_exits_1_and_leaves_only_the_note_of_what_it_was_asked(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("API_TOKEN", "pst-key-x")
    ended = command("setup", "init", "--api-url", URL, "--output", "dir:data")
    assert (ended.code, ended.out) == (1, "")
    assert "nothing listens at" in ended.err
    assert [file.name for file in (tmp_path / "data").glob("[!.]*")] == ["setup-creating"]


def test_renewing_and_its_no_op_are_told_to_people_and_to_programs(command: Callable[..., Ended], tmp_path: Path) -> None:
    write_offline(tmp_path / "data")
    waits = command("setup", "renew-cert", "--output", "dir:data", "--renew-before", "720h", "--json")
    assert waits.code == 0
    told = json.loads(waits.out)
    assert told["changes"] == []
    assert "nothing to do" in waits.err
    renewed = command("setup", "renew-cert", "--output=dir:data", "--json")
    assert renewed.code == 0
    assert json.loads(renewed.out)["changes"]
    assert json.loads(renewed.out)["expires_at"] > told["expires_at"]


def test_check_lists_every_finding_and_exits_1_when_one_is_bad(command: Callable[..., Ended], tmp_path: Path) -> None:
    write_offline(tmp_path / "data")
    assert command("setup", "check", "data").code == 0
    assert command("setup", "check", "--output", "dir:data").code == 0  # as its siblings take it
    (tmp_path / "data" / "tls.crt").unlink()
    found = command("setup", "check", "data")
    assert found.code == 1
    assert "✗ server certificate" in found.out
    assert "there is no tls.crt" in found.out
    told = json.loads(command("setup", "check", "data", "--json").out)
    assert [bool(one["problem"]) for one in told["findings"]] == [False, True, False]


@pytest.mark.anyio
async def test_init_and_check_against_a_private_platform(start_api: Callable[..., Any], tmp_path: Path) -> None:
    authority = ca.ca()
    pair = ca.server(authority, "localhost")
    (tmp_path / "pair.pem").write_text(f"{pair.certificate_pem}{pair.key_pem.reveal()}")
    (tmp_path / "company-ca.crt").write_text(authority.certificate_pem)
    served: Api = await start_api(tls={"cert_file": tmp_path / "pair.pem", "key_file": tmp_path / "pair.pem"})
    variables = {
        "API_URL": f"https://localhost:{served.control.address.port}",
        "API_TOKEN": served.initial.tunnels_key.reveal(),
    }

    async def setup(*arguments: str) -> tuple[int, str, str]:
        ended = await asyncio.to_thread(run, "setup", *arguments, folder=tmp_path, **variables)
        return ended.returncode, ended.stdout, ended.stderr

    init = ("init", "--output=dir:data", "--token-version=1", "--key-type=ecdsa", "--json")
    code, out, err = await setup(*init)
    assert (code, out) == (1, "")
    assert "is not trusted" in err
    assert "CA file" in err
    code, out, err = await setup(*init, "--api-ca-file=company-ca.crt")
    assert code == 0, err
    told = json.loads(out)
    assert told["tunnel_id"] == (tmp_path / "data" / "tunnel-id").read_text().strip()
    assert told["tunnel_domain"] == (tmp_path / "data" / "tunnel-domain").read_text().strip()
    assert "create a tunnel" in told["changes"]
    assert "· create a tunnel" in err
    code, out, err = await setup("check", "data")  # the platform's CA is in the output now
    assert code == 0, out
    assert "CA registered: as tcrt_" in out
    secrets = [(tmp_path / "data" / name).read_text() for name in ("tunnel-token", "ca.key", "tls.key")]
    assert not any(secret in out + err for secret in [*secrets, variables["API_TOKEN"]])
