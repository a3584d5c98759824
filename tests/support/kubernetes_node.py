"""A whole Kubernetes on this machine: API server, controllers, scheduler, one kubelet on its Docker engine, Services, names.

`$KUBERNETES_BINARIES` names the folder of `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `kubelet` and
`kube-proxy`, of a release whose kubelet still speaks to Docker by itself (up to 1.23). `etcd`, `kubectl`, `socat`, `conntrack`
and `iptables` are on the path, and the tests run as root. Everything that is started, mounted or set is undone at the end.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from tests.support.charts import ROOT
from tests.support.cluster_dns import cluster_dns
from tests.support.compose import docker, until
from tests.support.kube_api import ADMIN_TOKEN, READY_SECONDS, ApiServer, start, start_api_server
from tests.support.terminal import Terminal, of_a_newcomer
from tests.support.venvs import Venv

from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAUSE = "penstock-test-pause"
_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "10.96.0.1")
_WAIT = "trap exit TERM; sleep infinity & wait"
_NODE = "localhost"
_SECONDS = 400.0


@dataclass
class Node:
    """A running cluster of one node, and an administrator's shell on it."""

    folder: Path
    api: ApiServer
    address: str
    """Of the machine, as pods see it."""
    pods: str
    """The network that pods are in."""

    def shell(self, text: str, folder: Path, *, check: bool = True, **variables: str) -> str:
        """What commands say, typed on this machine with the cluster's names; ends at the first that fails."""
        given = of_a_newcomer(folder, KUBECONFIG=str(self.folder / "kubeconfig"), **variables)
        given["PATH"] = f"{self.folder / 'bin'}:{given['PATH']}"
        names = f"mount --bind {self.folder / 'resolv.conf'} /etc/resolv.conf"
        with Terminal(folder, given, shell=["unshare", "--mount", "sh", "-c", f"{names} && exec sh"]) as terminal:
            try:
                return terminal.type(text, check=check)
            except AssertionError as exc:
                raise AssertionError(f"{exc}\n{self.troubles()}") from None

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        command = ["kubectl", "--kubeconfig", str(self.folder / "kubeconfig"), *arguments]
        ended = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=_SECONDS, check=False)
        assert ended.returncode == 0 or not check, f"{arguments}: {ended.stderr}"
        return ended.stdout

    def get(self, namespace: str, *what: str) -> Any:
        """An object, or the items of a list."""
        found = json.loads(self.kubectl("-n", namespace, "get", *what, "-o", "json"))
        return found["items"] if found["kind"].endswith("List") else found

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """Its values, as they are stored."""
        return dict(self.get(namespace, "secret", name)["data"])

    def ready(self, namespace: str, *selector: str, seconds: float = 300.0) -> list[dict[str, Any]]:
        """The pods of a selector, once all are ready and none is on its way out."""
        found: list[dict[str, Any]] = []

        def are_ready() -> bool:
            found[:] = self.get(namespace, "pods", *selector)
            return bool(found) and all(map(_is_ready, found))

        try:
            until(are_ready, f"ready: the pods of {namespace} {selector}", seconds)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.troubles()}") from None
        return found

    def troubles(self) -> str:
        """What somebody would look at who wonders why it does not work."""
        seen = self.kubectl("get", "pods,jobs,events", "--all-namespaces", check=False)
        logs = [
            f"--- {pod['metadata']['namespace']}/{pod['metadata']['name']}\n"
            + self.kubectl(
                "-n", pod["metadata"]["namespace"], "logs", pod["metadata"]["name"], "--all-containers", "--tail=6", check=False
            )
            for pod in json.loads(self.kubectl("get", "pods", "--all-namespaces", "-o", "json"))["items"]
        ]
        return "\n".join([seen, *logs])[-20_000:]


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


@contextmanager
def node(folder: Path, python_image: str) -> Iterator[Node]:
    """Ready when it is given; gone afterwards."""
    programs = Path(os.environ["KUBERNETES_BINARIES"])
    [bridge] = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"]
    address = bridge["Gateway"]
    _pause(folder, python_image)
    (folder / "resolv.conf").write_text(f"nameserver {address}\n")
    with ExitStack() as running:
        running.callback(_clean, folder)
        api = start_api_server(
            running,
            folder,
            str(programs / "kube-apiserver"),
            "--endpoint-reconciler-type=lease",
            "--kubelet-preferred-address-types=Hostname",
            "--allow-privileged=true",
            address=address,
            names=(*_NAMES, address),
        )
        _kubeconfig(folder, api)
        http = running.enter_context(
            httpx2.Client(
                base_url=f"https://127.0.0.1:{api.port}",
                verify=contexts.control_client(folder / "ca.pem"),
                headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
                trust_env=False,
            )
        )
        until(lambda: _answers(http), "answering: the API server", READY_SECONDS)
        running.enter_context(cluster_dns(address, http))
        _start_the_rest(running, folder, programs, address, bridge["Subnet"])
        made = Node(folder, api, address, bridge["Subnet"])
        _helm(folder)
        until(lambda: "True" in made.kubectl("get", "nodes", "-o", _READY, check=False), "ready: the node", READY_SECONDS)
        yield made


_READY = 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'


def _start_the_rest(running: ExitStack, folder: Path, programs: Path, address: str, pods: str) -> None:
    kubeconfig = "--kubeconfig=kubeconfig"
    start(running, folder, "controllers", [
        str(programs / "kube-controller-manager"), kubeconfig, "--service-account-private-key-file=sa.key",
        "--root-ca-file=ca.pem", "--leader-elect=false", "--bind-address=127.0.0.1", "--port=0",
    ])  # fmt: skip
    start(running, folder, "scheduler", [
        str(programs / "kube-scheduler"), kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1", "--port=0",
    ])  # fmt: skip
    start(running, folder, "kubelet", [
        str(programs / "kubelet"), kubeconfig, f"--hostname-override={_NODE}", f"--node-ip={address}",
        f"--docker-endpoint={os.environ.get('DOCKER_HOST', 'unix:///var/run/docker.sock')}",
        f"--pod-infra-container-image={_PAUSE}", "--cgroup-driver=cgroupfs", "--cgroups-per-qos=false",
        "--enforce-node-allocatable=", "--fail-swap-on=false", f"--root-dir={folder / 'kubelet'}", "--address=127.0.0.1",
        "--read-only-port=0", "--healthz-port=0", "--authorization-mode=AlwaysAllow", "--anonymous-auth=true",
        "--oom-score-adj=0", "--image-gc-high-threshold=100", "--eviction-hard=",
        f"--cluster-dns={address}", "--cluster-domain=cluster.local", "--sync-frequency=10s",
    ])  # fmt: skip
    start(running, folder, "proxy", [
        str(programs / "kube-proxy"), kubeconfig, f"--hostname-override={_NODE}", "--proxy-mode=iptables",
        "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
        f"--cluster-cidr={pods}", "--oom-score-adj=0", "--bind-address=127.0.0.1",
    ])  # fmt: skip


def _answers(http: httpx2.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx2.TransportError:
        return False


def _kubeconfig(folder: Path, api: ApiServer) -> None:
    cluster = {"server": f"https://127.0.0.1:{api.port}", "certificate-authority": str(folder / "ca.pem")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": ADMIN_TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(json.dumps(config))


def _pause(folder: Path, python_image: str) -> None:
    """What holds a pod's network; any image with a program that waits, and ends when it is told to, does."""
    context = folder / "pause"
    context.mkdir()
    (context / "Dockerfile").write_text(f'FROM {python_image}\nENTRYPOINT ["sh", "-c", "{_WAIT}"]\n')
    docker("build", "--quiet", "--tag", _PAUSE, str(context))


def _helm(folder: Path) -> None:
    """A `helm` of the cluster's shell, and the charts where the guides say they are."""
    venv = Venv.make(folder / "venv")
    venv.install("helm-python-sdk==0.2.2", "pyyaml==6.0.3")
    (folder / "bin").mkdir()
    script = folder / "bin" / "helm"
    script.write_text(f'#!/bin/sh\nexec {venv.command("python")} {ROOT / "tests/e2e/helm_command.py"} "$@"\n')
    script.chmod(0o755)


def _clean(folder: Path) -> None:
    """Pods' containers, the packet filter's rules and the mounts that kubelet and kube-proxy leave behind."""
    left = docker("ps", "--all", "--quiet", "--filter", "label=io.kubernetes.pod.uid").split()
    if left:
        docker("rm", "--force", "--volumes", *left)
    for table in ("filter", "nat", "mangle"):
        _forget_rules(table)
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((one for one in mounted if one.startswith(str(folder))), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)
    shutil.rmtree(folder / "kubelet", ignore_errors=True)


def _forget_rules(table: str) -> None:
    """Rule by rule, so that what others set meanwhile stays."""
    iptables = ["iptables", "--wait", "--table", table]
    listed = subprocess.run([*iptables, "--list-rules"], capture_output=True, text=True, check=True).stdout.splitlines()
    chains = [line.split()[1] for line in listed if line.startswith("-N KUBE-")]
    for line in listed:
        words = shlex.split(line)
        if words[0] == "-A" and words[1] not in chains and any(word in chains for word in words[2:]):
            subprocess.run([*iptables, "-D", *words[1:]], check=True)
    for option in ("--flush", "--delete-chain"):
        for chain in chains:
            subprocess.run([*iptables, option, chain], check=True)
