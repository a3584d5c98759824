"""`--output=k8s-secret:NAME` against a real Kubernetes API server, with the chart's own roles and nothing more.

Collected only where `$KUBE_APISERVER` names a binary; `etcd` and `kubectl` have to be on the path.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.support.control import api, database, start_api
from tests.support.fuse import Fuse, Killed, fused
from tests.support.kubernetes import NAMESPACE, Cluster, cluster
from tests.support.pages import ROOT
from tests.support.provisioned import FAST

from penstock.client.control import ControlClient
from penstock.errors import IdentityError, UnavailableError
from penstock.protocol.token import parse_token
from penstock.setup.cluster import Cluster as Pod
from penstock.setup.progress import Progress
from penstock.setup.provision import provision
from penstock.setup.renewal import renew
from penstock.setup.rotation import Asked, rotate_ca
from penstock.setup.secret import KubernetesSecret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]
pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(180)]

SECRET = "mcp-gateway"
PUBLISHED = {"tunnel-id", "tunnel-domain", "tunnel-token", "ca.crt", "ca.key", "tls.crt", "tls.key"}


@pytest.fixture
async def kubernetes(tmp_path: Path) -> AsyncIterator[Cluster]:
    folder = tmp_path / "kubernetes"
    folder.mkdir()
    async with cluster(folder) as running:
        yield running


def rules_of_the_chart(template: str) -> list[dict[str, Any]]:
    text = (ROOT / "deploy" / "helm" / "mcp-tunnel" / "templates" / template).read_text()
    block = text.partition("\nrules:\n")[2].partition("\n---")[0]
    rules: list[dict[str, Any]] = yaml.safe_load(block.replace("{{ $name }}", SECRET))
    return rules


async def pod(kubernetes: Cluster, folder: Path, account: str = "setup", rules: list[dict[str, Any]] | None = None) -> Pod:
    """Where a process of this service account runs."""
    await kubernetes.service_account(account)
    if rules:
        await kubernetes.grant(account, rules)
    mounted = await kubernetes.mount(account, folder / account)
    host, _, port = kubernetes.host.rpartition(":")
    found = Pod.of_this_pod({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}, mounted)
    assert found is not None
    return found


async def init(api: Api, inside: Pod, version: str | None = None) -> list[str]:
    progress = Progress(lambda _: None)
    async with ControlClient(api.control.url, api.initial.tunnels_key) as platform:
        wanted = replace(FAST, token_version=version)
        await provision(KubernetesSecret(SECRET, inside), platform, wanted, progress)
    return progress.changes


async def stored(kubernetes: Cluster) -> tuple[dict[str, Any], dict[str, str]]:
    """The object, and its data in clear."""
    response = await kubernetes.http.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}")
    found = response.json()
    return found, {name: base64.b64decode(value).decode() for name, value in (found.get("data") or {}).items()}


async def tunnels(api: Api) -> list[dict[str, Any]]:
    return (await api.http.get("/v1/tunnels", params={"limit": 1000})).json()["data"]


async def test_the_charts_roles_are_enough_for_everything_setup_does(kubernetes: Cluster, api: Api, tmp_path: Path) -> None:
    inside = await pod(kubernetes, tmp_path, rules=rules_of_the_chart("setup.yaml"))
    await init(api, inside, "1")
    found, data = await stored(kubernetes)
    [tunnel] = await tunnels(api)
    assert data.keys() >= PUBLISHED
    assert (data["tunnel-id"].strip(), data["tunnel-domain"].strip()) == (tunnel["id"], tunnel["domain"])
    assert parse_token(data["tunnel-token"])
    assert found["type"] == "Opaque"
    assert {entry["operation"] for entry in found["metadata"]["managedFields"] if "f:data" in entry["fieldsV1"]} == {"Apply"}
    assert await init(api, inside, "1") == []
    assert (await stored(kubernetes))[0]["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]

    # What somebody else keeps in it stays theirs, and what setup has done with goes.
    foreign = {"data": {"theirs": base64.b64encode(b"\xff\xfe").decode()}}
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}"
    headers = {"content-type": "application/merge-patch+json"}
    assert (await kubernetes.http.patch(path, json=foreign, headers=headers)).is_success
    assert await init(api, inside, "2") == ["rotate the agent's token: version 1 becomes 2"]
    found = (await kubernetes.http.get(path)).json()
    assert base64.b64decode(found["data"]["theirs"]) == b"\xff\xfe"
    assert not {name for name in found["data"] if name.startswith("setup-")}

    # The renewing account may neither create nor see another Secret, and needs to do neither.
    renewing = await pod(kubernetes, tmp_path, "renewing", rules_of_the_chart("cert-renew.yaml"))
    before = found["data"]
    await renew(KubernetesSecret(SECRET, renewing), Progress(lambda _: None), duration=timedelta(days=90))
    after = (await kubernetes.http.get(path)).json()["data"]
    assert {name for name in after if after[name] != before[name]} == {"tls.crt"}

    asked = Asked(is_confirmed=True, settle=timedelta(0))
    async with ControlClient(api.control.url, api.initial.tunnels_key) as platform:
        assert await rotate_ca(KubernetesSecret(SECRET, inside), platform, asked, Progress(lambda _: None))
    assert await init(api, inside, "2") == []


NAMED = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET]}
CREATE = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ([], {"get", "patch", "create"}),
        ([{**NAMED, "verbs": ["get", "patch"]}], {"create"}),
        ([{**NAMED, "verbs": ["get"]}, CREATE], {"patch"}),
        ([{**NAMED, "verbs": ["patch"]}, CREATE], {"get"}),
    ],
    ids=["nothing", "no create", "no patch", "no get"],
)
async def test_the_line_that_is_told_grants_what_is_missing_and_nothing_more(
    kubernetes: Cluster, api: Api, tmp_path: Path, rules: list[dict[str, Any]], missing: set[str]
) -> None:
    inside = await pod(kubernetes, tmp_path, rules=rules)
    with pytest.raises(IdentityError, match=rf"may not (read|write) the Secret {SECRET}") as refused:
        await init(api, inside)
    assert "cannot" in str(refused.value.detail)
    line = str(refused.value.hint)
    assert {verb for verb in ("get", "patch", "create") if verb in line.replace("kubectl -n workloads create", "")} == missing
    before = len(await tunnels(api))
    assert before == 0  # refused before anything was asked of the platform
    kubernetes.kubectl(line, tmp_path)
    await init(api, inside)
    assert len(await tunnels(api)) == 1
    for verb, name in (("list", None), ("get", "another"), ("patch", "another"), ("delete", SECRET), ("update", SECRET)):
        assert not await inside.may(verb, name), (verb, name)


async def test_a_token_that_the_api_server_does_not_know_is_told_apart(kubernetes: Cluster, api: Api, tmp_path: Path) -> None:
    inside = await pod(kubernetes, tmp_path)
    (inside.account / "token").write_text("nonsense")
    with pytest.raises(IdentityError, match="does not accept this pod's service account token"):
        await init(api, inside)


async def test_of_two_runs_at_once_one_goes_on_and_the_other_says_so(kubernetes: Cluster, api: Api, tmp_path: Path) -> None:
    inside = await pod(kubernetes, tmp_path, rules=rules_of_the_chart("setup.yaml"))
    ended = await asyncio.gather(*(init(api, inside, "1") for _ in range(3)), return_exceptions=True)
    lost = [one for one in ended if isinstance(one, BaseException)]
    assert len(lost) < 3
    assert all(isinstance(one, UnavailableError) and "another run of setup" in one.public for one in lost), lost
    await init(api, inside, "1")
    assert await init(api, inside, "1") == []
    assert len(await tunnels(api)) == 1

    ours, theirs = KubernetesSecret(SECRET, inside), KubernetesSecret(SECRET, inside)
    await ours.load()
    await theirs.load()
    await theirs.store({"token-version": "theirs"})
    with pytest.raises(UnavailableError, match="another run of setup"):
        await ours.store({"token-version": "ours"})
    assert (await stored(kubernetes))[1]["token-version"] == "theirs"


async def test_killed_anywhere_the_next_run_finishes_the_job(
    kubernetes: Cluster, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = await pod(kubernetes, tmp_path, rules=rules_of_the_chart("setup.yaml"))
    at, is_killed = 0, True
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}"
    while is_killed:
        fuse = Fuse(at)
        with monkeypatch.context() as patched:
            patched.setattr(ControlClient, "_call", fused(fuse, ControlClient._call))
            patched.setattr(Pod, "_call", fused(fuse, Pod._call))
            try:
                await init(api, inside, "1")
                is_killed = False
            except Killed:
                pass
        await init(api, inside, "1")
        [tunnel] = await tunnels(api)
        [_] = (await api.http.get(f"/v1/tunnels/{tunnel['id']}/certificates")).json()["data"]
        assert await init(api, inside, "1") == [], f"killed at {at}"
        assert (await api.http.post(f"/v1/tunnels/{tunnel['id']}/archive")).is_success
        assert (await kubernetes.http.delete(path)).is_success
        at += 1
    assert at > 20
