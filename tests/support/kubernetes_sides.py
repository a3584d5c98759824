"""Platform and private side on a cluster, as their guides say: both charts, a PostgreSQL, the sample MCP server."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from tests.support import ca
from tests.support.charts import ROOT, merge
from tests.support.compose import docker, until
from tests.support.pages import Page

from penstock.tls.certs import certificate_to_pem

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.kubernetes_node import Node

API = "https://penstock.example.com"
PLATFORM = Page("guides/helm-platform.md")
PRIVATE = Page("guides/helm.md")
BY_HAND = Page("guides/by-hand.md")
NAMESPACE = RELEASE = "mcp-tunnel"
PYTHON = "/opt/penstock/bin/python"  # the image's
STACK = ("-l", "app.kubernetes.io/component=stack")


@dataclass
class Sides:
    """Both, and the folder that a person types the guides' commands in."""

    node: Node
    folder: Path
    image: str
    key: str = ""
    """Of a caller."""
    platform: dict[str, Any] = field(default_factory=dict)
    """The values of `control` that the platform is released with."""
    api: dict[str, Any] = field(default_factory=dict)
    """The values of `api` that the private side is released with."""
    by_hand: dict[str, str] = field(default_factory=dict)
    """What the commands of the page by hand were told of its tunnel."""

    def shell(self, text: str, *, check: bool = True, **variables: str) -> str:
        access = {"PENSTOCK_API_URL": API, "PENSTOCK_CA_FILE": str(self.folder / "ca.crt"), **variables}
        return self.node.shell(text, self.folder, check=check, SSL_CERT_FILE=access["PENSTOCK_CA_FILE"], **access)

    def values(self, guide: Page, kind: str = "", **more: Any) -> dict[str, Any]:
        """Write the guide's values, with what is this test's own, to `values.yaml`; kind: what is said behind that name."""
        header = f"# values.yaml{kind and f', {kind}'}"
        [text] = [block for block in guide.blocks(language="yaml") if block.startswith(f"{header}\n")]
        name, _, tag = self.image.partition(":")
        values = merge(yaml.safe_load(text), {"image": {"repository": name, "tag": tag, "pullPolicy": "Never"}, **more})
        (self.folder / "values.yaml").write_text(yaml.safe_dump(values))
        return values

    @property
    def domain(self) -> str:
        return self.node.shell(_DOMAIN, self.folder).strip()

    def call(self, route: str = "echo", domain: str = "") -> str:
        """The sample's tool, called from outside both."""
        call = f'penstock call "https://{route}.{domain or self.domain}/mcp" hello name=node 2>&1'
        return self.shell(call, check=False, PENSTOCK_API_KEY=self.key)

    def answers(self, route: str = "echo", domain: str = "") -> None:
        """AssertionError with what is said where the tool does not answer within a minute: everything shares one machine."""
        said: list[str] = []

        def hello() -> bool:
            said.append(self.call(route, domain))
            return "Hello, node!" in said[-1]

        try:
            until(hello, f"answering: {route}")
        except AssertionError:
            raise AssertionError("\n".join(said) + self.node.troubles()) from None

    def stack(self) -> list[dict[str, Any]]:
        """The private side's pods, once they are ready."""
        return self.node.ready(NAMESPACE, *STACK)

    def idle(self, namespace: str) -> dict[str, Any]:
        """A pod that is nobody's: it answers on port 8000."""
        command = ("--command", "--", PYTHON, "-m", "http.server", "8000")
        self.node.kubectl("-n", namespace, "run", "idle", f"--image={self.image}", "--image-pull-policy=Never", *command)
        return self.node.ready(namespace, "-l", "run=idle")[0]

    def reached(self, pod: dict[str, Any], *places: tuple[str, int]) -> list[bool]:
        """Which of these the pod can connect to."""
        metadata = pod["metadata"]
        into = ("-n", metadata["namespace"], "exec", metadata["name"], "-c", pod["spec"]["containers"][0]["name"], "--")
        return json.loads(self.node.kubectl(*into, PYTHON, "-c", _REACH, json.dumps(places)))

    def has_reloaded(self, pod: dict[str, Any]) -> bool:
        """Whether the pod's proxy took up another certificate since it began."""
        log = self.node.kubectl("-n", NAMESPACE, "logs", pod["metadata"]["name"], "-c", "mcp-proxy")
        return "certificate reloaded" in log


_REACH = """
import json, socket, sys
def reached(place):
    try:
        socket.create_connection(tuple(place), 2).close()
    except OSError:
        return False
    return True
print(json.dumps([reached(place) for place in json.loads(sys.argv[1])]))
"""
_DOMAIN = f"kubectl -n {NAMESPACE} get secret {RELEASE} -o jsonpath='{{.data.tunnel-domain}}' | base64 -d"


def start_platform(sides: Sides, python_image: str) -> None:
    """Control and two edges on a PostgreSQL."""
    postgres = str(ROOT / "tests/e2e/compose")
    build = ("--build-arg", f"PYTHON_IMAGE={python_image}", "--file", f"{postgres}/postgres.Dockerfile", postgres)
    docker("build", "--quiet", "--tag", "penstock-test-postgres", *build)
    sides.node.kubectl("apply", "-f", str(ROOT / "tests/e2e/kubernetes/postgres.yaml"))
    sides.node.kubectl("apply", "-f", "-", stdin=_volumes(sides.folder))
    authority = ca.ca()
    pair = ca.server(authority, "penstock.example.com", "penstock-control")
    files = {
        "ca.crt": certificate_to_pem(authority.certificate),
        "tls.crt": pair.certificate_pem,
        "tls.key": pair.key_pem.reveal(),
        "database-url": "postgresql://penstock:7cdf1e0a@postgres.database.svc/penstock",
    }
    for name, text in files.items():
        (sides.folder / name).write_text(text)
    shutil.copytree(ROOT / "deploy", sides.folder / "deploy")
    sample = sides.folder / "deploy/kubernetes/hello-mcp.yaml"
    sample.write_text(sample.read_text().replace("penstock:0.1.0", sides.image))
    annotation = {"external-dns.alpha.kubernetes.io/hostname": "penstock.example.com"}
    sides.platform = {"service": {"annotations": annotation}}
    sides.values(PLATFORM, control=sides.platform)
    sides.shell(PLATFORM.commands("bring"))
    sides.node.ready("database")
    sides.shell(PLATFORM.commands("install"))
    sides.node.ready("penstock")
    initial = json.loads((sides.folder / "initial.json").read_text())
    sides.key = initial["api-key"]
    sides.shell("jq -r '.\"admin-password\"' initial.json | penstock login --email admin@localhost --password-stdin")


def prepare_private_side(sides: Sides) -> dict[str, Any]:
    """What the guide wants made before the release; the values of `api`."""
    rule = json.loads(sides.shell(PRIVATE.commands("federation").rstrip() + " --json"))
    organization = json.loads(sides.shell("penstock whoami --json"))["organization_id"]
    sides.shell(f"kubectl create namespace {NAMESPACE}; kubectl -n {NAMESPACE} create secret generic api-ca --from-file=ca.crt")
    return {"url": API, "caSecretName": "api-ca", "wif": {"federationRuleId": rule["id"], "organizationId": organization}}


def prepare_by_hand(sides: Sides) -> dict[str, str]:
    """A tunnel whose CA and certificate are made as the page by hand says; what its commands are told."""
    initial = json.loads((sides.folder / "initial.json").read_text())
    tunnel = json.loads(sides.shell("penstock tunnels create --display-name 'by hand' --json"))
    token = sides.shell(f"penstock tunnels reveal-token {tunnel['id']} 2>/dev/null").strip()
    variables = {"TUNNEL_ID": tunnel["id"], "TUNNEL_DOMAIN": tunnel["domain"], "TUNNEL_TOKEN": token}
    sides.shell(BY_HAND.commands("make"), API_URL=API, API_TOKEN=initial["tunnels-key"], CURL_CA_BUNDLE="ca.crt", **variables)
    return variables


def _volumes(folder: Path) -> str:
    """What a provisioner would make for the edges."""
    made: list[dict[str, Any]] = []
    for index in range(2):
        path = folder / f"edge-{index}"
        path.mkdir()
        path.chmod(0o777)
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(path)}}
        made.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"edge-{index}"}, "spec": spec})
    return yaml.safe_dump_all(made)
