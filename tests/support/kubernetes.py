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
from cryptography.hazmat.primitives import serialization
from tests.support import ca

from penstock.tls import certs, contexts
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAMESPACE = "workloads"
ISSUER = "https://kubernetes.default.svc"
_READY_SECONDS = 60.0


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
            "users": [{"name": "admin", "user": {"token": "admin-token"}}],
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
        async with asyncio.timeout(_READY_SECONDS):  # the binding takes a moment to hold
            while not (await self.http.get("/openid/v1/jwks", headers={"authorization": ""})).is_success:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Ready when it is given; gone afterwards."""
    authority = ca.ca()
    pair = ca.server(authority, "localhost")
    signing = certs.make_rsa_key(2048)
    public = signing.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    files = {
        "tls.crt": pair.certificate_pem,
        "tls.key": pair.key_pem.reveal(),
        "sa.key": certs.key_to_pem(signing).reveal(),
        "sa.pub": public.decode(),
        "tokens.csv": 'admin-token,admin,admin,"system:masters"\n',
        "ca.pem": authority.certificate_pem,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    ports = choose_free()
    store, peers, port = (one.port for one in (ports.control, ports.callers, ports.agents))
    with ExitStack() as running:
        _start(running, folder, "etcd", [
            "etcd", "--data-dir", "etcd", "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{store}", f"--advertise-client-urls=http://127.0.0.1:{store}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-cluster=default=http://127.0.0.1:{peers}",
        ])  # fmt: skip
        _start(running, folder, "apiserver", [
            os.environ["KUBE_APISERVER"], f"--etcd-servers=http://127.0.0.1:{store}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}",
            "--cert-dir=pki", "--tls-cert-file=tls.crt", "--tls-private-key-file=tls.key",
            "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC", "--token-auth-file=tokens.csv",
            f"--service-account-issuer={ISSUER}", "--service-account-key-file=sa.pub",
            "--service-account-signing-key-file=sa.key", "--endpoint-reconciler-type=none",
            "--disable-admission-plugins=ServiceAccount",
        ])  # fmt: skip
        async with httpx2.AsyncClient(
            base_url=f"https://localhost:{port}",
            verify=contexts.control_client(folder / "ca.pem"),
            headers={"authorization": "Bearer admin-token"},
            trust_env=False,
        ) as http:
            await _until_ready(http, folder)
            made = Cluster(f"localhost:{port}", authority.certificate_pem, http)
            await made.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            yield made


def _start(running: ExitStack, folder: Path, name: str, command: list[str]) -> None:
    log = running.enter_context((folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    running.callback(process.wait)
    running.callback(process.kill)


async def _until_ready(http: httpx2.AsyncClient, folder: Path) -> None:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                try:
                    if (await http.get("/readyz")).is_success:
                        return
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError((folder / "apiserver.log").read_text(errors="replace")[-3000:]) from None
