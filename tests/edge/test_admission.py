from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.ca import CALLER, DOMAIN, HOST, ORGANIZATION, WORKSPACE
from tests.support.site import ACCOUNT, SECRET, TUNNEL_ID, tunnel

from penstock.edge.admission import AgentRefused, admit_agent, admit_caller
from penstock.edge.directory import Directory
from penstock.errors import TunnelError, TunnelErrorCode
from penstock.schema.edges import CallerRecord, RetiringVerifier, Snapshot
from penstock.tls.names import CallerIdentity

NOW = datetime(2030, 1, 1, tzinfo=UTC)
IDENTITY = CallerIdentity(ORGANIZATION, WORKSPACE, CALLER, "abc123")
OTHER_DOMAIN = "zz99zz99.tunnel.penstock.internal"


def record(**changes: object) -> CallerRecord:
    values: dict[str, object] = {
        "serial": "abc123",
        "caller_id": CALLER,
        "organization_id": ORGANIZATION,
        "workspace_id": WORKSPACE,
        "expires_at": NOW + timedelta(hours=1),
    }
    return CallerRecord.model_validate({**values, **changes})


def directory(*tunnels: object, callers: tuple[CallerRecord, ...] = (record(),)) -> Directory:
    return Directory.of(Snapshot.model_validate({"version": 1, "tunnels": tunnels or (tunnel(),), "callers": callers}))


# --- agents -----------------------------------------------------------------------------------------------------------


def test_an_agent_with_the_tunnels_secret_is_admitted_to_that_tunnel() -> None:
    admitted = admit_agent(directory(), account=ACCOUNT, tunnel_id=TUNNEL_ID, secret=SECRET, now=NOW)
    assert not isinstance(admitted, AgentRefused)
    assert admitted.wire_id == str(TUNNEL_ID)


def test_during_a_rotations_overlap_both_secrets_register() -> None:
    old, new = tunnel().verifiers[0], "ab" * 32
    for verifiers in [(old, new), (new, old)]:
        both = directory(tunnel(verifiers=verifiers))
        assert not isinstance(admit_agent(both, account=ACCOUNT, tunnel_id=TUNNEL_ID, secret=SECRET, now=NOW), AgentRefused)


def test_a_replaced_secret_registers_until_its_overlap_is_over_and_not_after() -> None:
    retiring = RetiringVerifier(verifier=tunnel().verifiers[0], until=NOW)
    rotated = directory(tunnel(verifiers=("ab" * 32,), retiring=(retiring,)))
    for now, is_refused in [(NOW - timedelta(seconds=1), False), (NOW, True)]:
        decision = admit_agent(rotated, account=ACCOUNT, tunnel_id=TUNNEL_ID, secret=SECRET, now=now)
        assert isinstance(decision, AgentRefused) == is_refused


@pytest.mark.parametrize(
    ("account", "tunnel_id", "secret"),
    [
        (ACCOUNT, TUNNEL_ID, SECRET[:-1]),
        (ACCOUNT, TUNNEL_ID, b""),
        (ACCOUNT, uuid.UUID(int=7), SECRET),
        ("someone-else", TUNNEL_ID, SECRET),
        ("", uuid.UUID(int=7), b""),
    ],
)
def test_any_other_agent_is_refused_in_words_that_make_a_stock_agent_try_again(
    account: str, tunnel_id: uuid.UUID, secret: bytes
) -> None:
    refused = admit_agent(directory(), account=account, tunnel_id=tunnel_id, secret=secret, now=NOW)
    assert isinstance(refused, AgentRefused)
    assert refused.cause.startswith("Unauthorized: ")
    assert refused.should_retry


def test_all_refusals_read_alike_so_that_nobody_learns_which_tunnels_exist() -> None:
    unknown = admit_agent(directory(), account=ACCOUNT, tunnel_id=uuid.UUID(int=7), secret=SECRET, now=NOW)
    wrong = admit_agent(directory(), account=ACCOUNT, tunnel_id=TUNNEL_ID, secret=b"wrong", now=NOW)
    assert unknown == wrong


def test_a_tunnel_without_a_verifier_admits_nobody() -> None:
    refused = admit_agent(directory(tunnel(verifiers=())), account=ACCOUNT, tunnel_id=TUNNEL_ID, secret=b"", now=NOW)
    assert isinstance(refused, AgentRefused)


# --- callers ----------------------------------------------------------------------------------------------------------


def test_a_caller_of_the_tunnels_workspace_is_admitted_under_the_very_host_it_named() -> None:
    admission = admit_caller(directory(), IDENTITY, HOST, NOW)
    assert (admission.tunnel.domain, admission.host, admission.caller.serial) == (DOMAIN, HOST, "abc123")


def test_the_bare_tunnel_domain_names_the_tunnel_too() -> None:
    assert admit_caller(directory(), IDENTITY, DOMAIN, NOW).tunnel.domain == DOMAIN


def refused(known: Directory, host: str = HOST, identity: CallerIdentity = IDENTITY) -> TunnelError:
    with pytest.raises(TunnelError) as raised:
        admit_caller(known, identity, host, NOW)
    return raised.value


@pytest.mark.parametrize(
    "known",
    [
        directory(callers=()),
        directory(callers=(record(serial="other"),)),
        directory(callers=(record(expires_at=NOW),)),
        directory(callers=(record(workspace_id="wrkspc_01Another"),)),
        directory(callers=(record(caller_id="clr_01Another"),)),
        directory(callers=(record(organization_id="00000000-0000-0000-0000-000000000000"),)),
    ],
    ids=["none", "another serial", "expired", "another workspace", "another caller", "another organization"],
)
def test_a_caller_that_the_feed_does_not_name_just_so_is_forbidden(known: Directory) -> None:
    assert refused(known).code is TunnelErrorCode.CALLER_FORBIDDEN


@pytest.mark.parametrize(
    ("known", "host"),
    [
        (directory(), f"echo.{OTHER_DOMAIN}"),
        (directory(tunnel(workspace_id="wrkspc_01Another")), HOST),
        (directory(tunnel(organization_id="00000000-0000-0000-0000-000000000000")), HOST),
        (directory(), "management.argotunnel.com"),
        (directory(), "management.fed.argotunnel.com"),
        (directory(tunnel(domain="argotunnel.com")), "management.argotunnel.com"),
        (directory(), f"deeper.{HOST}"),
        (directory(), "com"),
    ],
)
def test_unknown_foreign_and_management_hosts_get_one_answer(known: Directory, host: str) -> None:
    error = refused(known, host)
    assert (error.code, error.public) == (TunnelErrorCode.TUNNEL_NOT_FOUND, "there is no such tunnel")


def test_a_tunnel_without_a_ca_certificate_is_named_as_such_to_its_own_callers_only() -> None:
    assert refused(directory(tunnel(certificates=0))).code is TunnelErrorCode.CERTIFICATE_MISSING
    foreign = directory(tunnel(certificates=0, workspace_id="wrkspc_01Another"))
    assert refused(foreign).code is TunnelErrorCode.TUNNEL_NOT_FOUND
