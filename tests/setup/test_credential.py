"""How setup proves who it is: where a token comes from, and the token of each kind of workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support.control import api, database, start_api
from tests.support.idp import Idp
from tests.support.provisioned import FAST
from tests.support.workloads import AUDIENCE, workload

from penstock.client.control import Edition
from penstock.control.service.bootstrap import create_api_key
from penstock.errors import IdentityError
from penstock.secret import Secret
from penstock.setup.credential import WorkloadIdentity, find_credential, open_platform
from penstock.setup.directory import Directory
from penstock.setup.progress import Progress
from penstock.setup.provision import provision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.control import Api
    from tests.support.workloads import Workload

__all__ = ["api", "database", "start_api"]

pytestmark = pytest.mark.anyio

# What the issuers of these workloads put into a token, and the match of a rule for it.
KUBERNETES = {
    "sub": "system:serviceaccount:mcp-tunnel:mcp-tunnel-setup",
    "aud": [AUDIENCE],
    "kubernetes.io": {
        "namespace": "mcp-tunnel",
        "pod": {"name": "mcp-tunnel-setup-x7k2p", "uid": "5c7e"},
        "serviceaccount": {"name": "mcp-tunnel-setup", "uid": "a41b"},
    },
}
SPIFFE = {"sub": "spiffe://prod.acme.com/ns/mcp-tunnel/sa/setup", "aud": [AUDIENCE]}
VAULT = {"sub": "5b5d8a1e-6a3f-64d0-a3f1-0c0ea3a3f2d1", "aud": AUDIENCE, "namespace": "root", "role": "penstock-setup"}
GOOGLE = {
    "sub": "113774264463038321964",
    "azp": "113774264463038321964",
    "aud": AUDIENCE,
    "email": "setup@acme.iam.gserviceaccount.com",
    "email_verified": True,
}
GITHUB = {
    "sub": "repo:acme/infra:environment:production",
    "aud": AUDIENCE,
    "jti": "example-id",
    "ref": "refs/heads/main",
    "repository": "acme/infra",
    "repository_owner": "acme",
    "repository_owner_id": "1234",
    "run_id": "9876543210",
    "event_name": "workflow_dispatch",
    "job_workflow_ref": "acme/infra/.github/workflows/tunnel.yml@refs/heads/main",
    "runner_environment": "github-hosted",
}
SHAPES: dict[str, tuple[Idp, dict[str, Any], dict[str, Any]]] = {
    "kubernetes": (
        Idp.rsa(),
        KUBERNETES,
        {"subject_prefix": KUBERNETES["sub"], "condition": 'claims["kubernetes.io"].namespace == "mcp-tunnel"'},
    ),
    "spiffe": (Idp(), SPIFFE, {"subject_prefix": SPIFFE["sub"]}),
    "vault": (Idp.rsa(), VAULT, {"subject_prefix": VAULT["sub"], "claims": {"role": "penstock-setup"}}),
    "google": (Idp.rsa(), GOOGLE, {"claims": {"email": GOOGLE["email"]}}),
    "github": (Idp.rsa(), GITHUB, {"subject_prefix": "repo:acme/infra:*", "claims": {"repository_owner_id": "1234"}}),
}
ISSUERS = {
    "kubernetes": "https://kubernetes.default.svc.cluster.local",
    "spiffe": "https://oidc.prod.acme.com",
    "vault": "https://vault.acme.com/v1/identity/oidc",
    "google": "https://accounts.google.com",
    "github": "https://token.actions.githubusercontent.com",
}


def variables(one: Workload, **more: str) -> dict[str, str]:
    return {
        "ANTHROPIC_FEDERATION_RULE_ID": one.rule["id"],
        "ANTHROPIC_ORGANIZATION_ID": one.api.initial.organization_id,
        **more,
    }


async def init(one: Workload, folder: Path, environment: dict[str, str]) -> Edition:
    """Provision `folder` by the identity that these variables tell of; the edition it was done in."""
    credential = find_credential(environment)
    async with await open_platform(one.api.control.url, credential, ca_file=None) as platform:
        done = await provision(Directory(folder), platform, FAST, Progress(lambda _: None))
        assert done is not None
        return platform.edition


def write(shape: str, folder: Path, token: str) -> Path:
    """As the sidecar of this kind of workload leaves it."""
    if shape == "kubernetes":  # kubelet swaps a symbolic link to a folder of all files
        versions = sorted(folder.glob("..20*"))
        version = folder / f"..2026_11_21.{len(versions)}"
        version.mkdir(parents=True)
        (version / "token").write_text(token)
        (folder / "..new").symlink_to(version.name)
        (folder / "..new").replace(folder / "..data")
        if not (folder / "token").is_symlink():
            (folder / "token").symlink_to("..data/token")
        return folder / "token"
    folder.mkdir(exist_ok=True)
    name, end = {"spiffe": ("jwt_svid.token", ""), "vault": ("token", "\n"), "google": ("identity", "\r\n")}[shape]
    (folder / name).write_text(token + end)
    return folder / name


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_token_of_each_kind_of_workload_provisions_and_is_read_anew_each_time(
    start_api: Callable[..., Any], tmp_path: Path, shape: str
) -> None:
    idp, claims, match = SHAPES[shape]
    idp.issuer = ISSUERS[shape]
    started: Api = await start_api(public_url=AUDIENCE)
    one = await workload(started, idp, issuer={"issuer_url": idp.issuer}, match=match)
    if shape == "github":  # the job asks for it and exports it
        environment = variables(one, ANTHROPIC_IDENTITY_TOKEN=f"{idp.sign(**claims)}\n")
        assert await init(one, tmp_path / "data", environment) is Edition.CURRENT
        return
    file = write(shape, tmp_path / "identity", idp.sign(**claims, iat=1, exp=2))
    environment = variables(one, ANTHROPIC_IDENTITY_TOKEN_FILE=str(file))
    with pytest.raises(IdentityError) as expired:
        await init(one, tmp_path / "data", environment)
    assert "expired at 1970-01-01 00:00:02 UTC" in str(expired.value.hint)
    assert write(shape, tmp_path / "identity", idp.sign(**claims)) == file
    assert await init(one, tmp_path / "data", environment) is Edition.CURRENT
    assert len((await started.http.get("/v1/tunnels")).json()["data"]) == 1


def test_a_token_file_is_read_when_it_is_needed_and_not_before(tmp_path: Path) -> None:
    file = tmp_path / "token"
    found = find_credential(
        {"ANTHROPIC_FEDERATION_RULE_ID": "r", "ANTHROPIC_ORGANIZATION_ID": "o", "ANTHROPIC_IDENTITY_TOKEN_FILE": str(file)}
    )
    assert isinstance(found, WorkloadIdentity)
    for token in ("one", "two"):
        file.write_text(token)
        assert found.assertion().reveal() == token
    assert "two" not in repr(found)


async def test_the_scope_of_the_rule_chooses_the_edition(start_api: Callable[..., Any], tmp_path: Path) -> None:
    started: Api = await start_api(public_url=AUDIENCE)
    one = await workload(started, oauth_scope="org:manage_tunnels")
    tunnel = await started.tunnel()
    environment = variables(one, ANTHROPIC_IDENTITY_TOKEN=one.idp.sign())
    async with await open_platform(started.control.url, find_credential(environment), ca_file=None) as platform:
        assert platform.edition is Edition.LAUNCH
        assert (await platform.tunnel(tunnel["id"])).domain == tunnel["domain"]


async def test_a_rule_that_grants_something_else_is_said_plainly(start_api: Callable[..., Any]) -> None:
    started: Api = await start_api(public_url=AUDIENCE)
    one = await workload(started, oauth_scope="workspace:developer")
    environment = variables(one, ANTHROPIC_IDENTITY_TOKEN=one.idp.sign())
    with pytest.raises(IdentityError, match="does not grant tunnels") as refused:
        await open_platform(started.control.url, find_credential(environment), ca_file=None)
    assert "workspace:manage_tunnels" in str(refused.value.hint)


async def test_a_key_that_manages_no_tunnels_is_refused_with_the_way_out(api: Api, tmp_path: Path) -> None:
    calls = await create_api_key(api.config, api.initial.workspace_id)
    for key, said in ((calls.secret, "may not do this"), (Secret("pst-key-of-nobody"), "is not accepted")):
        async with await open_platform(api.control.url, key, ca_file=None) as platform:
            with pytest.raises(IdentityError, match=said) as refused:
                await provision(Directory(tmp_path / "data"), platform, FAST, Progress(lambda _: None))
        assert "Tunnels API key" in f"{refused.value.public} {refused.value.hint}"
        assert key.reveal() not in f"{refused.value.public} {refused.value.detail} {refused.value.hint}"
