"""A real Kubernetes API server on loopback: `etcd` from the path, `kube-apiserver` as `$KUBE_APISERVER` names it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
from tests.support.kube_api import ADMIN_TOKEN, ISSUER, READY_SECONDS, start_api_server

from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["ISSUER", "NAMESPACE", "Cluster", "cluster"]

NAMESPACE = "workloads"


@dataclass
class Cluster:
    """The running API server and an administrator's client of it."""

    host: str
    ca_pem: str
    http: httpx2.AsyncClient

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self.http.post(path, json=body)
        assert response.is_success, response.text
        return response.json()

    async def service_account(self, name: str) -> None:
        await self.create(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": name}})

    async def token(self, name: str, audience: str, seconds: int = 600) -> str:
        """What a pod of this service account finds in its projected volume."""
        body = {"spec": {"audiences": [audience], "expirationSeconds": seconds}}
        made = await self.create(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token", body)
        return made["status"]["token"]

    async def grant(self, account: str, rules: list[dict[str, Any]]) -> None:
        """A role of these rules for a service account."""
        group = "rbac.authorization.k8s.io"
        path = f"/apis/{group}/v1/namespaces/{NAMESPACE}"
        await self.create(f"{path}/roles", {"metadata": {"name": account}, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
        role = {"apiGroup": group, "kind": "Role", "name": account}
        await self.create(f"{path}/rolebindings", {"metadata": {"name": account}, "roleRef": role, "subjects": [subject]})

    async def mount(self, account: str, folder: Path) -> Path:
        """What kubelet mounts into a pod of this service account."""
        folder.mkdir()
        (folder / "token").write_text(await self.token(account, ISSUER))
        (folder / "ca.crt").write_text(self.ca_pem)
        (folder / "namespace").write_text(NAMESPACE)
        return folder

    def kubectl(self, line: str, folder: Path) -> None:
        """Run a line as the cluster's administrator would type it."""
        cluster = {"server": f"https://{self.host}", "certificate-authority": str(folder / "ca.pem")}
        admin = {"cluster": "c", "user": "admin"}
        config = {
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": ADMIN_TOKEN}}],
            "contexts": [{"name": "c", "context": admin}],
            "current-context": "c",
        }
        (folder / "ca.pem").write_text(self.ca_pem)
        (folder / "kubeconfig").write_text(json.dumps(config))
        environment = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)}
        subprocess.run(["sh", "-ec", line], env=environment, check=True, stdin=subprocess.DEVNULL)

    async def publish_keys(self) -> None:
        """Let strangers read the issuer's keys, as a cluster has to that others federate."""
        body = {
            "metadata": {"name": "issuer-discovery"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:service-account-issuer-discovery",
            },
            "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:unauthenticated"}],
        }
        await self.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body)
        async with asyncio.timeout(READY_SECONDS):  # the binding takes a moment to hold
            while not (await self.http.get("/openid/v1/jwks", headers={"authorization": ""})).is_success:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Ready when it is given; gone afterwards."""
    with ExitStack() as running:
        server = start_api_server(
            running,
            folder,
            os.environ["KUBE_APISERVER"],
            "--bind-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--disable-admission-plugins=ServiceAccount",
        )
        async with httpx2.AsyncClient(
            base_url=f"https://localhost:{server.port}",
            verify=contexts.control_client(folder / "ca.pem"),
            headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
            trust_env=False,
        ) as http:
            await _until_ready(http, folder)
            made = Cluster(f"localhost:{server.port}", server.ca_pem, http)
            await made.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            yield made


async def _until_ready(http: httpx2.AsyncClient, folder: Path) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                try:
                    if (await http.get("/readyz")).is_success:
                        return
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError((folder / "apiserver.log").read_text(errors="replace")[-3000:]) from None
