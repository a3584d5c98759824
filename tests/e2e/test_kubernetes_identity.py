"""A pod's projected token, signed by a real Kubernetes API server, becomes a bearer that manages tunnels.

Collected only where `$KUBE_APISERVER` names a binary; `etcd` has to be on the path.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.control import api, database, start_api
from tests.support.kubernetes import ISSUER, Cluster, cluster
from tests.support.people import ok
from tests.support.workloads import AUDIENCE, workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.control import Api

__all__ = ["api", "database", "start_api"]
pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(180)]

POD = "system:serviceaccount:workloads:penstock-setup"
MATCH = {"subject_prefix": POD, "condition": 'claims["kubernetes.io"].namespace == "workloads"'}


@pytest.fixture
async def kubernetes(tmp_path: Path) -> AsyncIterator[Cluster]:
    folder = tmp_path / "kubernetes"
    folder.mkdir()
    async with cluster(folder) as running:
        await running.service_account("penstock-setup")
        await running.service_account("stranger")
        yield running


async def test_a_pods_token_is_exchanged_by_fetched_keys_and_by_inline_ones(
    kubernetes: Cluster, start_api: Callable[..., Any]
) -> None:
    started: Api = await start_api(public_url=AUDIENCE, federation={"allowed_hosts": [kubernetes.host], "refresh_interval": 0})
    source = {"type": "explicit_url", "url": f"https://{kubernetes.host}/openid/v1/jwks", "ca_cert_pem": kubernetes.ca_pem}
    one = await workload(started, jwks=source, issuer={"issuer_url": ISSUER}, match=MATCH)
    token = await kubernetes.token("penstock-setup", AUDIENCE)

    # The cluster does not show its keys to strangers unless it is told to.
    await one.denied("jwks_unavailable", token)
    await kubernetes.publish_keys()
    answer = await one.exchange(token)
    assert answer.is_success, (await one.boss.get("/penstock/v1/authentications"))["data"][0]
    bearer = started.bearing(ok(answer)["access_token"])
    assert ok(await started.http.get("/penstock/v1/me", headers=bearer))["id"] == one.account["id"]

    await one.denied("match_subject_prefix", await kubernetes.token("stranger", AUDIENCE))
    await one.denied("audience_mismatch", await kubernetes.token("penstock-setup", "api.anthropic.com"))
    await one.denied("lifetime_too_long", await kubernetes.token("penstock-setup", AUDIENCE, 7200))

    keys = json.loads((await kubernetes.http.get("/openid/v1/jwks")).content)["keys"]
    path = f"/v1/organizations/federation_issuers/{one.issuer['id']}"
    await one.boss.post(path, {"jwks": {"type": "inline", "keys": keys}})
    assert ok(await one.exchange(await kubernetes.token("penstock-setup", AUDIENCE)))
