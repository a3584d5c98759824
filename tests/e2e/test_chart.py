"""The chart `mcp-tunnel`, rendered by Helm's own engine over a matrix of values and checked against Kubernetes' own schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from tests.support.charts import NEWEST, OLDEST, engine_of, is_restricted, pods

from penstock.config.load import load
from penstock.proxy.config import ProxyConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.charts import Document, Engine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

WIF = {"federationRuleId": "fdrl_1", "organizationId": "organization"}
API = {"url": "https://penstock.example.com", "wif": WIF}
ROUTES = {"config": {"routes": {"echo": "http://echo:9000"}}}
EXTERNAL_ROUTES = {"config": {"routes": {"echo": "http://echo:9000"}, "tunnel_domain": "ab12cd34.tunnel.example.com"}}
MATRIX: dict[str, Document] = {
    "managed": {"api": API, "gateway": ROUTES},
    "the launch edition's names": {"api": {**API, "wif": {**WIF, "tunnelId": "tnl_1"}}, "gateway": ROUTES},
    "with a key": {"api": {"url": API["url"], "token": "pst-key"}, "gateway": ROUTES},
    "with a key's Secret": {"api": {"url": API["url"], "tokenSecretName": "key"}, "gateway": ROUTES},
    "external": {"setup": {"enabled": False}, "gateway": EXTERNAL_ROUTES},
    "a stock agent": {
        "api": API,
        "gateway": ROUTES,
        "agent": {"image": "cloudflare/cloudflared:2026.8.2"},
        "edge": {"addresses": ["edge-1.example.com:7844", "edge-1.example.com:7844"], "caSecretName": "edge-ca"},
    },
    "a stock agent beside setup": {
        "api": API,
        "gateway": ROUTES,
        "agent": {"image": "cloudflare/cloudflared:2026.8.2"},
        "edge": {"addresses": ["edge-1.example.com:7844"] * 4},
    },
    "everything closed": {
        "api": {**API, "caSecretName": "api-ca"},
        "gateway": ROUTES,
        "replicaCount": 3,
        "image": {"digest": "sha256:" + "0" * 64},
        "networkPolicy": {
            "ingress": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
            "egress": {
                "enabled": True,
                "mcpServers": ["10.1.2.0/24", {"podSelector": {"matchLabels": {"app": "echo"}}, "ports": [9000]}],
                "cloudflaredEgressCIDRs": ["192.0.2.0/24"],
            },
        },
        "setup": {
            "extraVolumes": [{"name": "spiffe", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "spiffe", "mountPath": "/spiffe"}],
        },
    },
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_of("mcp-tunnel", tmp_path_factory.mktemp("helm")) as started:
        yield started


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
@pytest.mark.parametrize("minor", [OLDEST, NEWEST])
def test_what_it_renders_is_valid_on_the_oldest_and_the_newest(
    engine: Engine, tmp_path: Path, values: Document, minor: str
) -> None:
    assert engine.problems(values, minor, tmp_path) == ""


def test_every_published_name_is_exact(engine: Engine) -> None:
    managed = {(d["kind"], d["metadata"]["name"]) for d in engine.render(MATRIX["managed"])}
    assert {
        ("Deployment", "mcp-tunnel"),
        ("ConfigMap", "mcp-tunnel"),
        ("Job", "mcp-tunnel-setup"),
        ("ServiceAccount", "mcp-tunnel-setup"),
        ("CronJob", "mcp-tunnel-cert-renew"),
        ("ServiceAccount", "mcp-tunnel-cert-renew"),
        ("NetworkPolicy", "mcp-tunnel"),
    } <= managed
    external = {d["kind"] for d in engine.render(MATRIX["external"])}
    assert external == {"Deployment", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"}
    deployment = engine.one(MATRIX["managed"], "Deployment", "mcp-tunnel")
    assert [c["name"] for c in deployment["spec"]["template"]["spec"]["containers"]] == ["mcp-proxy", "cloudflared"]


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_pod_meets_the_restricted_standard(engine: Engine, values: Document) -> None:
    found = pods(engine.render(values))
    assert found
    assert all(map(is_restricted, found))


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_the_settings_it_writes_are_the_proxys(engine: Engine, values: Document) -> None:
    text = engine.one(values, "ConfigMap", "mcp-tunnel")["data"]["config.yaml"]
    settings = load(ProxyConfig, role="proxy", flags={**yaml.safe_load(text), "tunnel_domain": "ab12cd34.tunnel.example.com"})
    assert (str(settings.listen_addr), str(settings.admin_addr)) == (":8080", ":8081")
    assert (str(settings.tls.cert_file), str(settings.tls.key_file)) == ("/tls/tls.crt", "/tls/tls.key")
    assert settings.callers.mode == ("require" if values.get("setup", {}).get("enabled", True) else "off")


def test_what_the_user_says_of_the_charts_own_settings_is_ignored(engine: Engine) -> None:
    config = {**ROUTES["config"], "listen_addr": ":1", "admin_addr": None, "tls": {"cert_file": "/a", "key_file": "/b"}}
    text = engine.one({"api": API, "gateway": {"config": config}}, "ConfigMap", "mcp-tunnel")["data"]["config.yaml"]
    settings = yaml.safe_load(text)
    assert (settings["listen_addr"], settings["admin_addr"]) == (":8080", ":8081")
    assert settings["tls"] == {"cert_file": "/tls/tls.crt", "key_file": "/tls/tls.key"}


def test_pods_see_no_more_of_the_secret_than_they_need(engine: Engine) -> None:
    pod = engine.one(MATRIX["managed"], "Deployment", "mcp-tunnel")["spec"]["template"]["spec"]
    [tls] = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert {item["key"] for item in tls["items"]} == {"tls.crt", "tls.key", "callers-ca.crt"}
    assert pod["automountServiceAccountToken"] is False


def test_a_stock_agent_trusts_the_edges_that_setup_wrote_down_unless_told_of_others(engine: Engine) -> None:
    def trusted(values: Document) -> list[Document]:
        volumes = engine.one(values, "Deployment", "mcp-tunnel")["spec"]["template"]["spec"]["volumes"]
        return [volume["secret"] for volume in volumes if volume["name"] == "edge-ca"]

    item = {"key": "edge-ca.crt", "path": "ca.crt"}
    assert trusted(MATRIX["managed"]) == []
    assert trusted(MATRIX["a stock agent beside setup"]) == [{"secretName": "mcp-tunnel", "items": [item]}]
    assert trusted(MATRIX["a stock agent"]) == [{"secretName": "edge-ca", "items": [{**item, "key": "ca.crt"}]}]


def test_setup_and_renewal_may_touch_one_secret(engine: Engine) -> None:
    rules = {d["metadata"]["name"]: d["rules"] for d in engine.render(MATRIX["managed"]) if d["kind"] == "Role"}
    named = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mcp-tunnel"], "verbs": ["get", "patch"]}
    create = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}
    assert rules == {"mcp-tunnel-setup": [named, create], "mcp-tunnel-cert-renew": [named]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gateway": ROUTES}, "api.url is required"),
        ({"api": {"url": "https://penstock.example.com"}}, "api.wif.federationRuleId is required"),
        ({"setup": {"enabled": False}}, "gateway.config.tunnel_domain is required"),
        ({"api": API, "gateway": {"config": {"rotues": {}}}}, "rotues"),
        ({"api": API, "replicas": 2}, "replicas"),
        ({"api": API, "gateway": {"config": {"routes": ["echo"]}}}, "routes"),
        ({"api": {**API, "url": "https://penstock.example.com/v1"}}, "url"),
    ],
)
def test_wrong_values_are_refused_by_name(engine: Engine, values: Document, said: str) -> None:
    assert said in engine.answer(values)["error"]


def test_a_change_of_settings_and_a_rotation_roll_the_pods(engine: Engine) -> None:
    def annotations(values: Document) -> Document:
        template = engine.one(values, "Deployment", "mcp-tunnel")["spec"]["template"]
        return dict(template["metadata"]["annotations"])

    plain = annotations(MATRIX["managed"])
    routed = annotations({"api": API, "gateway": {"config": {"routes": {"other": "http://other:1"}}}})
    rotated = annotations({**MATRIX["managed"], "tunnel": {"tokenVersion": "2"}})
    assert routed["checksum/config"] != plain["checksum/config"]
    assert rotated != plain
