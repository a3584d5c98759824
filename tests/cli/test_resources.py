"""The platform's API as commands, each run against a control plane."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.support import ca
from tests.support.idp import ISSUER, Idp

from penstock.cli.resources import request
from penstock.cli.resources.audit import AUDIT
from penstock.cli.resources.callers import CALLERS
from penstock.cli.resources.federation import FEDERATION, SERVICE_ACCOUNTS
from penstock.cli.resources.organization import API_KEYS, TUNNELS_KEYS, USERS, WORKSPACES
from penstock.cli.resources.platform import EDGES, ORGANIZATIONS
from penstock.cli.resources.tunnels import LINKS, TUNNELS
from penstock.protocol.token import parse_token
from penstock.secret import Secret
from penstock.tls import certs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Ended

    from penstock.cli.resources.table import Resource
    from penstock.control.service.bootstrap import Initial


@dataclass
class Signed:
    """`penstock …` as one person; remembers which commands it ran."""

    command: Callable[..., Ended]
    used: set[tuple[str, ...]] = field(default_factory=set)

    def json(self, *arguments: str) -> Any:
        """What the command answers as JSON; it must succeed."""
        ended = self.ok(*arguments, "--json")
        return json.loads(ended.out)

    def ok(self, *arguments: str) -> Ended:
        ended = self.command(*arguments)
        assert ended.code == 0, ended.err
        self.used.add(arguments)
        return ended

    def ran_all_of(self, resource: Resource) -> None:
        """Every command of a resource was run."""
        for names in _commands(resource):
            assert any(arguments[: len(names)] == names for arguments in self.used), f"{' '.join(names)} was not run"


def _commands(resource: Resource, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    names = (*above, resource.name)
    for command in resource.commands:
        yield (*names, command.name)
    for below in resource.below:
        yield from _commands(below, names)


@pytest.fixture
def sign_in(
    command: Callable[..., Ended], platform: tuple[str, Initial], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Signed]:
    """As the first `admin` or `operator`."""
    url, initial = platform

    def sign_in(who: str) -> Signed:
        email, password = getattr(initial, f"{who}_email"), getattr(initial, f"{who}_password").reveal()
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
        assert command("login", "--api-url", url, "--email", email, "--password-stdin").code == 0
        return Signed(command)

    return sign_in


def test_tunnels_and_their_certificates(sign_in: Callable[[str], Signed], tmp_path: Path) -> None:
    admin = sign_in("admin")
    made = admin.json("tunnels", "create", "--display-name", "build farm")
    tunnel = made["id"]
    assert admin.json("tunnels", "get", tunnel) == made
    assert made["domain"] in admin.ok("tunnels", "list").out

    token = admin.ok("tunnels", "reveal-token", tunnel)
    assert token.out.startswith("eyJ")
    assert token.out.strip() not in token.err
    kept = tmp_path / "token"
    rotated = admin.ok("tunnels", "rotate-token", tunnel, "--reason", "a leak", "--yes", "--secret-file", str(kept))
    assert kept.read_text() == admin.ok("tunnels", "reveal-token", tunnel).out != token.out
    assert kept.read_text().strip() not in rotated.out + rotated.err
    assert kept.stat().st_mode & 0o777 == 0o600

    (tmp_path / "ca.crt").write_text(ca.ca().certificate_pem)
    certificates = ("tunnels", "certificates")
    registered = admin.json(*certificates, "create", tunnel, "--ca-certificate-file", str(tmp_path / "ca.crt"))
    assert registered["tunnel_id"] == tunnel
    assert registered["fingerprint"] in admin.ok(*certificates, "list", tunnel).out
    assert admin.json(*certificates, "get", tunnel, registered["id"]) == registered
    assert admin.json(*certificates, "archive", tunnel, registered["id"], "--yes")["archived_at"]
    assert admin.json(*certificates, "list", tunnel) == {"data": []}
    assert len(admin.json(*certificates, "list", tunnel, "--include-archived")["data"]) == 1

    assert admin.json("tunnels", "archive", tunnel, "--yes")["archived_at"]
    assert tunnel not in admin.ok("tunnels", "list").out
    admin.ran_all_of(TUNNELS)


def test_live_links_of_one_tunnel_or_of_all(sign_in: Callable[[str], Signed], platform: tuple[str, Initial]) -> None:
    url, initial = platform
    admin = sign_in("admin")
    tunnel, other = (admin.json("tunnels", "create")["id"] for _ in range(2))
    wire_id = str(parse_token(admin.ok("tunnels", "reveal-token", tunnel).out.strip()).tunnel_id)
    enrolment = {
        "name": "edge-1",
        "caller_address": "127.0.0.1:8443",
        "agent_address": "127.0.0.1:7844",
        "csr_pem": certs.make_csr(certs.make_ec_key(), "edge"),
    }
    link = {"id": "1", "wire_id": wire_id, "connector_id": "agent-1", "version": "v9", "since": "2026-01-01T00:00:00Z"}
    with httpx2.Client(base_url=url, trust_env=False) as http:

        def post(path: str, body: dict[str, Any], secret: str) -> Any:
            answer = http.post(path, json=body, headers={"authorization": f"Bearer {secret}"})
            assert answer.status_code == 200, answer.text
            return answer.json()

        edge = post("/penstock/v1/edges/enrol", enrolment, initial.enrolment_token.reveal())
        report = {"incarnation": "life-1", "links": [link], "usage": []}
        post("/penstock/v1/edge/presence", report, edge["credential"])
        (found,) = admin.json("links", "list")["data"]
        assert (found["tunnel_id"], found["edge"], found["agent_id"], found["version"]) == (tunnel, "edge-1", "agent-1", "v9")
        assert admin.json("links", "list", "--tunnel", tunnel)["data"] == [found]
        assert admin.json("links", "list", "--tunnel", other)["data"] == []
        assert admin.command("links", "list", "--tunnel", "tnl_none").code == 1
    admin.ran_all_of(LINKS)
    sign_in("operator").ok("edges", "revoke", edge["edge_id"], "--yes")  # the platform is other tests' too


def test_a_person_chooses_the_workspace_to_act_in(sign_in: Callable[[str], Signed], platform: tuple[str, Initial]) -> None:
    admin = sign_in("admin")
    elsewhere = admin.json("workspaces", "create", "--name", "elsewhere")["id"]
    tunnel = admin.json("tunnels", "create", "--workspace", elsewhere)["id"]
    assert tunnel in admin.ok("tunnels", "list", "--workspace", elsewhere).out
    assert tunnel not in admin.ok("tunnels", "list", "--workspace", platform[1].workspace_id).out


def test_workspaces_people_and_keys(sign_in: Callable[[str], Signed], command: Callable[..., Ended]) -> None:
    admin = sign_in("admin")
    workspace = admin.json("workspaces", "create", "--name", "blue")["id"]
    assert admin.json("workspaces", "update", workspace, "--name", "green")["name"] == "green"
    assert admin.json("workspaces", "get", workspace)["name"] == "green"
    assert "green" in admin.ok("workspaces", "list").out

    user = admin.json("users", "create", "--email", "Ada@example.com", "--role", "user", "--manage-tunnels")
    assert (user["email"], user["role"], user["manage_tunnels"]) == ("ada@example.com", "user", True)
    assert admin.json("users", "update", user["id"], "--no-manage-tunnels", "--name", "Ada")["manage_tunnels"] is False
    assert admin.json("users", "get", user["id"])["name"] == "Ada"
    assert [one["id"] for one in admin.json("users", "list", "--role", "user")["data"]] == [user["id"]]
    assert admin.ok("users", "reset-password", user["id"], "--yes").out.strip() not in {"", user["password"]}
    admin.ok("users", "sign-out", user["id"])
    assert admin.json("users", "remove", user["id"], "--yes")["type"] == "user_deleted"

    for kind, prefix in (("api-keys", "pst-key-"), ("tunnels-keys", "pst-tunnels-")):
        made = admin.ok(kind, "create", "--name", "ci", "--workspace-id", workspace)
        assert made.out.startswith(prefix), "the key alone is on stdout"
        assert made.out.strip() not in made.err
        [key] = [one for one in admin.json(kind, "list")["data"] if one["name"] == "ci" and one["status"] == "active"]
        assert admin.json(kind, "get", key["id"]) == key
        assert admin.json(kind, "update", key["id"], "--status", "inactive")["status"] == "inactive"
        assert admin.json(kind, "archive", key["id"], "--yes")["status"] == "archived"
    assert {one["oauth_scope"] for one in admin.json("tunnels-keys", "list")["data"]} == {"workspace:manage_tunnels"}
    nothing = command("api-keys", "update", key["id"])
    assert (nothing.code, "nothing to change" in nothing.err) == (2, True)

    assert admin.json("workspaces", "archive", workspace, "--yes")["archived_at"]
    for resource in (WORKSPACES, USERS, API_KEYS, TUNNELS_KEYS):
        admin.ran_all_of(resource)


def test_service_accounts_issuers_and_rules(
    sign_in: Callable[[str], Signed], platform: tuple[str, Initial], tmp_path: Path
) -> None:
    admin, workspace = sign_in("admin"), platform[1].workspace_id
    account = admin.json("service-accounts", "create", "--name", "ci", "--description", "builds")["id"]
    assert admin.json("service-accounts", "update", account, "--description", "tests")["description"] == "tests"
    assert admin.json("service-accounts", "get", account)["organization_role"] == "developer"
    assert account in admin.ok("service-accounts", "list").out
    other = admin.json("workspaces", "create", "--name", "other")["id"]
    of_account = ("service-accounts", "workspaces")
    admin.ok(*of_account, "add", account, "--workspace-id", other, "--workspace-role", "workspace_user")
    admin.ok(*of_account, "update", account, other, "--workspace-role", "workspace_developer")
    assert admin.json(*of_account, "get", account, other)["workspace_role"] == "workspace_developer"
    assert len(admin.json(*of_account, "list", account)["data"]) == 2
    admin.ok(*of_account, "remove", account, other, "--yes")

    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [Idp().jwk]}))
    issuers, rules = ("federation", "issuers"), ("federation", "rules")
    inline = ("--jwks-file", str(tmp_path / "jwks.json"), "--no-check-jti")
    issuer = admin.json(*issuers, "create", "--name", "idp", "--issuer-url", ISSUER, *inline)
    assert (issuer["jwks"]["type"], issuer["check_jti"]) == ("inline", False)
    changed = admin.json(*issuers, "update", issuer["id"], "--max-jwt-lifetime-seconds", "600")
    assert (changed["max_jwt_lifetime_seconds"], changed["jwks"]) == (600, issuer["jwks"])
    assert admin.json(*issuers, "get", issuer["id"]) == changed
    assert "inline" in admin.ok(*issuers, "list").out

    told = ("--name", "ci", "--issuer-id", issuer["id"], "--service-account-id", account, "--scope", "workspace:manage_tunnels")
    match = ("--subject-prefix", "system:*", "--claim", "team=blue", "--claim", "stage=a=b", "--condition", "has(claims.sub)")
    rule = admin.json(*rules, "create", *told, *match, "--workspace-id", workspace)
    assert rule["match"]["claims"] == {"team": "blue", "stage": "a=b"}
    assert admin.json(*rules, "update", rule["id"], "--token-lifetime-seconds", "60")["match"] == rule["match"]
    assert admin.json(*rules, "get", rule["id"])["token_lifetime_seconds"] == 60
    assert "idp" in admin.ok(*rules, "list", "--issuer-id", issuer["id"]).out
    admin.ok(*rules, "workspaces", "add", rule["id"], "--workspace-id", other)
    assert other in admin.ok(*rules, "workspaces", "list", rule["id"]).out
    admin.ok(*rules, "workspaces", "remove", rule["id"], other, "--yes")
    assert admin.ok("federation", "history", "--outcome", "denied").out == ""

    assert admin.json(*rules, "archive", rule["id"], "--yes")["archived_at"]
    assert admin.json(*issuers, "archive", issuer["id"], "--yes")["archived_at"]
    assert admin.json("service-accounts", "archive", account, "--yes")["archived_at"]
    admin.ran_all_of(FEDERATION)
    admin.ran_all_of(SERVICE_ACCOUNTS)


def test_organizations_and_edges_are_an_operators(sign_in: Callable[[str], Signed], command: Callable[..., Ended]) -> None:
    sign_in("admin")
    refused = command("organizations", "list")
    assert refused.code == 1
    assert "only a platform operator" in refused.err
    assert "penstock login" in refused.err

    operator = sign_in("operator")
    made = operator.json("organizations", "create", "--name", "acme", "--admin-email", "boss@acme.example")
    assert made["admin_password"]
    assert operator.json("organizations", "get", made["id"])["name"] == "acme"
    assert "acme" in operator.ok("organizations", "list").out
    assert operator.json("organizations", "suspend", made["id"], "--yes")["suspended_at"]
    assert operator.json("organizations", "resume", made["id"])["suspended_at"] is None
    assert operator.json("organizations", "delete", made["id"], "--yes")["type"] == "organization_deleted"

    token = operator.json("edges", "enrol-token", "create")
    assert token["enrolment_token"].startswith("pst-enrol-")
    assert token["id"] in operator.ok("edges", "enrol-token", "list").out
    operator.ok("edges", "enrol-token", "revoke", token["id"], "--yes")
    assert operator.json("edges", "list") == {"data": []}
    gone = command("edges", "revoke", "edg_01Nobody", "--yes")
    assert gone.code == 1
    operator.used.add(("edges", "revoke"))
    operator.ran_all_of(ORGANIZATIONS)
    operator.ran_all_of(EDGES)


def test_callers_certificates_are_issued_listed_and_revoked(sign_in: Callable[[str], Signed], tmp_path: Path) -> None:
    admin = sign_in("admin")
    admin.ok("callers", "issue", "--out", str(tmp_path / "caller"))
    assert (tmp_path / "caller" / "caller.key").stat().st_mode & 0o777 == 0o600
    certificate = certs.load_certificate((tmp_path / "caller" / "caller.crt").read_text())
    certificate.verify_directly_issued_by(certs.load_certificate((tmp_path / "caller" / "callers-ca.crt").read_text()))
    assert certs.load_key(Secret((tmp_path / "caller" / "caller.key").read_text())).public_key() == certificate.public_key()
    [listed] = admin.json("callers", "list")["data"]
    assert listed["id"] == certs.serial_hex(certificate)
    assert admin.json("callers", "revoke", listed["id"], "--yes")["type"] == "caller_certificate_revoked"
    assert admin.json("callers", "list") == {"data": []}
    admin.ran_all_of(CALLERS)


def test_the_audit_log_is_listed_and_exported_from_the_platform(
    sign_in: Callable[[str], Signed], command: Callable[..., Ended]
) -> None:
    admin = sign_in("admin")
    workspace = admin.json("workspaces", "create", "--name", "audited")["id"]
    [made] = admin.json("audit", "list", "--type", "workspace_created", "--subject-id", workspace)["data"]
    assert made["name"] == "audited"
    assert "user_signed_in" in admin.ok("audit", "list").out
    lines = admin.ok("audit", "export", "--type", "workspace_created", "--subject-id", workspace).out.splitlines()
    assert [json.loads(line) for line in lines] == [made]
    refused = command("audit", "export", "--type", "nonsense")
    assert (refused.code, refused.out) == (1, "")
    assert "there is no activity nonsense" in refused.err
    admin.ran_all_of(AUDIT)


def test_who_one_is_is_shown(sign_in: Callable[[str], Signed], platform: tuple[str, Initial]) -> None:
    me = sign_in("admin").json("whoami")
    assert (me["type"], me["workspace_id"]) == ("user", platform[1].workspace_id)
    shown = sign_in("admin").ok("whoami").out
    assert "org:admin" in shown
    for line in (f"platform         {platform[0]}", "credential       session of admin@localhost", "kind             user"):
        assert line in shown
    assert me["expires_at"]
    assert sign_in("operator").json("whoami")["type"] == "operator"


def test_lists_are_followed_over_all_their_pages_and_cut_where_asked(
    sign_in: Callable[[str], Signed], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = sign_in("admin")
    for number in range(5):
        admin.ok("workspaces", "create", "--name", f"page-{number}")
        admin.ok("service-accounts", "create", "--name", f"page-{number}")
    whole = {kind: admin.json(kind, "list") for kind in ("workspaces", "service-accounts")}
    monkeypatch.setattr(request, "_LONGEST_PAGE", 2)
    for kind, listed in whole.items():
        assert admin.json(kind, "list") == listed
        assert [one["name"] for one in admin.json(kind, "list", "--limit", "3")["data"]] == ["page-4", "page-3", "page-2"]


def test_a_table_has_its_columns_under_their_heads_whatever_a_cell_holds(
    sign_in: Callable[[str], Signed], platform: tuple[str, Initial]
) -> None:
    admin = sign_in("admin")
    admin.ok("tunnels", "create", "--display-name", "two words\x1b[31m\nand a line")
    head, newest = admin.ok("tunnels", "list", "--limit", "1").out.splitlines()
    assert head.split() == ["ID", "DOMAIN", "DISPLAY_NAME", "CREATED_AT", "ARCHIVED_AT"]
    assert newest[head.index("DISPLAY_NAME") :].startswith("two words?[31m and a line  20")
    assert newest.endswith("Z  -")
    shown = admin.ok("workspaces", "get", platform[1].workspace_id).out
    assert "\nname             default\n" in shown
