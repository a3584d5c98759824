"""The chart `penstock`, rendered by Helm's own engine and checked against Kubernetes' own schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from tests.support.charts import NEWEST, OLDEST, engine_of, is_restricted, pods

from penstock.config.load import load
from penstock.control.config import ControlConfig
from penstock.edge.config import EdgeConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.charts import Document, Engine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CONTROL = {"publicUrl": "https://penstock.example.com"}
MATRIX: dict[str, Document] = {
    "plain": {"control": CONTROL},
    "everything": {
        "control": {
            **CONTROL,
            "tlsSecretName": "",
            "ingress": {"enabled": True, "host": "penstock.example.com", "className": "nginx", "tlsSecretName": "ingress"},
        },
        "edge": {"replicas": 3, "maxReplicas": 5, "autoscaling": {"enabled": True}, "service": {"type": "ClusterIP"}},
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    },
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_of("penstock", tmp_path_factory.mktemp("helm")) as started:
        yield started


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
@pytest.mark.parametrize("minor", [OLDEST, NEWEST])
def test_what_it_renders_is_valid_on_the_oldest_and_the_newest(
    engine: Engine, tmp_path: Path, values: Document, minor: str
) -> None:
    assert engine.problems(values, minor, tmp_path) == ""


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_pod_meets_the_restricted_standard(engine: Engine, values: Document) -> None:
    found = pods(engine.render(values))
    assert len(found) == 3
    assert all(map(is_restricted, found))


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_the_settings_it_writes_are_the_roles(engine: Engine, values: Document, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://penstock@postgres/penstock")
    text = engine.one(values, "ConfigMap", "penstock-control")["data"]["control.yaml"]
    control = {**yaml.safe_load(text), "database_url": {"file": str(tmp_path / "url")}}
    assert str(load(ControlConfig, role="control", flags=control).key_file) == "/keys/master.key"
    text = engine.one(values, "ConfigMap", "penstock-edge")["data"]["edge.yaml"]
    edge = {**yaml.safe_load(text), "advertise_callers": "edge.example.com:443", "advertise_agents": "edge.example.com:7844"}
    scheme = "https" if values["control"].get("tlsSecretName", "tls") else "http"
    assert load(EdgeConfig, role="edge", flags=edge).control_url == f"{scheme}://penstock-control:8700"


def test_each_edge_has_an_address_of_its_own(engine: Engine) -> None:
    services = {d["metadata"]["name"]: d["spec"] for d in engine.render(MATRIX["everything"]) if d["kind"] == "Service"}
    for index in range(5):
        service = services[f"penstock-edge-{index}"]
        assert service["selector"]["statefulset.kubernetes.io/pod-name"] == f"penstock-edge-{index}"
        assert [port["port"] for port in service["ports"]] == [443, 7844]


def test_a_digest_wins_over_the_tag_in_every_pod(engine: Engine) -> None:
    named = {"repository": "registry.example.com/penstock", "tag": "0.1.0", "digest": f"sha256:{'0' * 64}"}
    found = [
        container["image"]
        for pod in pods(engine.render({"control": CONTROL, "image": named}))
        for container in pod["containers"]
    ]
    assert found == [f"registry.example.com/penstock@sha256:{'0' * 64}"] * 3


def test_init_may_touch_one_secret(engine: Engine) -> None:
    [role] = [d for d in engine.render(MATRIX["plain"]) if d["kind"] == "Role"]
    named = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["penstock-initial"], "verbs": ["get", "patch"]}
    assert role["rules"] == [named, {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}]


def test_without_a_public_url_it_says_so(engine: Engine) -> None:
    assert "control.publicUrl is required" in engine.answer({})["error"]
