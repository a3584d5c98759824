"""Both charts on a real Kubernetes, by the guides' own commands: setup proves itself as the pod it is, and calls go through.

Collected only where `$KUBERNETES_BINARIES` and `$PENSTOCK_TEST_PYTHON_IMAGE` name what `tests.support.kubernetes_node` needs.
The tests tell one story, from the first install to the last uninstall, in this order.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.support import compose, network_policy
from tests.support.compose import until
from tests.support.kubernetes_node import node
from tests.support.kubernetes_sides import (
    NAMESPACE,
    PLATFORM,
    PRIVATE,
    RELEASE,
    STACK,
    Sides,
    prepare_by_hand,
    prepare_private_side,
    start_platform,
)
from tests.support.registry import registry
from tests.support.sides import tell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PYTHON = os.environ["PENSTOCK_TEST_PYTHON_IMAGE"]
HELLO = "http://hello-mcp.mcp-tunnel.svc.cluster.local:9000"
TWO_ROUTES = {"config": {"routes": {"echo": HELLO, "gone": HELLO}}}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    image = compose.image(PYTHON, version("penstock"), "penstock-test-node")
    with node(tmp_path_factory.mktemp("node"), PYTHON) as running:
        made = Sides(running, tmp_path_factory.mktemp("work"), image)
        start_platform(made, PYTHON)
        made.api = prepare_private_side(made)
        yield made


def test_a_hook_that_failed_is_left_with_its_reason_and_the_guide_says_how_to_begin_again(sides: Sides) -> None:
    wrong = {**sides.api, "wif": {**sides.api["wif"], "audience": "api.example.org"}}
    sides.values(PRIVATE, api=wrong, gateway=TWO_ROUTES)
    said = sides.shell(PRIVATE.commands("managed"), check=False)
    assert "failed pre-install" in said
    reason = sides.node.kubectl("-n", NAMESPACE, "logs", "job/mcp-tunnel-setup")
    assert "system:serviceaccount:mcp-tunnel:mcp-tunnel-setup" in reason
    assert "api.example.org" in reason
    assert "Traceback" not in reason
    assert sides.node.get(NAMESPACE, "pods", "-l", "app.kubernetes.io/component=stack") == []
    sides.values(PRIVATE, api=sides.api, gateway=TWO_ROUTES)
    sides.shell(PRIVATE.commands("again"))


def test_a_tool_is_called_through_the_pods(sides: Sides) -> None:
    def says() -> str:
        return sides.shell(PRIVATE.commands("sample"), check=False, PENSTOCK_API_KEY=sides.key)

    until(lambda: "Hello, world!" in says(), "answering as the guide says", 180)  # pods have the least share of a busy machine
    sides.answers("gone")
    assert len(sides.stack()) == 2


def test_the_hook_leaves_the_secret_and_nothing_that_helm_forgets(sides: Sides) -> None:
    kept = sides.node.secret(NAMESPACE, RELEASE)
    assert {"tunnel-id", "tunnel-domain", "tunnel-token", "ca.crt", "ca.key", "tls.crt", "tls.key"} <= set(kept)
    names = sides.node.kubectl("-n", NAMESPACE, "get", "jobs,serviceaccounts,roles,rolebindings,pods", "-o", "name")
    assert "setup" not in names


def test_an_upgrade_without_a_route_takes_it_away(sides: Sides) -> None:
    before = sides.node.secret(NAMESPACE, RELEASE)
    sides.values(PRIVATE, api=sides.api)
    sides.shell(PRIVATE.commands("upgrade"))
    until(lambda: "No route configured for host" in sides.call("gone"), "gone: the route")
    sides.answers()
    assert sides.node.secret(NAMESPACE, RELEASE) == before  # the hook did not run


def test_a_forced_rotation_rolls_the_pods_in_the_same_upgrade(sides: Sides) -> None:
    before, token = ids(sides.stack()), sides.node.secret(NAMESPACE, RELEASE)["tunnel-token"]
    sides.values(PRIVATE, api=sides.api, tunnel={"tokenVersion": "2"})
    sides.shell(PRIVATE.commands("rotate"))
    assert sides.node.secret(NAMESPACE, RELEASE)["tunnel-token"] != token
    assert not ids(sides.stack()) & before
    sides.answers()  # the old token opens no new link, so these pods have the new one


def test_the_policies_let_pass_what_a_tunnel_needs_and_nothing_else(sides: Sides) -> None:
    upstream = {"podSelector": {"matchLabels": {"app": "hello-mcp"}}, "ports": [9000]}
    policy = {
        "ingress": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        "egress": {"enabled": True, "mcpServers": [upstream], "cloudflaredEgressCIDRs": [sides.node.pods]},
    }
    sides.values(PRIVATE, api=sides.api, tunnel={"tokenVersion": "2"}, networkPolicy=policy)
    sides.shell(PRIVATE.commands("upgrade"))
    sides.node.kubectl("create", "namespace", "monitoring")
    sides.node.kubectl("label", "namespace", "monitoring", "name=monitoring")
    stranger, monitor = sides.idle(NAMESPACE), sides.idle("monitoring")
    one, another = sides.stack()
    edge = sides.node.get("penstock", "pod", "penstock-edge-0")
    own, others = one["status"]["podIP"], another["status"]["podIP"]
    with network_policy.enforced(sides.node):
        assert sides.reached(one, ("hello-mcp", 9000), ("penstock-edge-0.edge.example.com", 7844)) == [True, True]
        closed = [
            ("penstock-edge-0.edge.example.com", 443),
            ("penstock.example.com", 443),
            ("postgres.database.svc", 5432),
            ("kubernetes.default.svc", 443),
            (sides.node.address, sides.node.api.port),
            (stranger["status"]["podIP"], 8000),
            (others, 8081),
            ("192.0.2.1", 443),
        ]
        assert sides.reached(one, *closed) == [False] * len(closed)
        assert sides.reached(monitor, (own, 8081), (own, 20241), (own, 8080)) == [True, True, False]
        assert sides.reached(stranger, (own, 8081), (own, 20241), (own, 8080)) == [False, False, False]
        assert sides.reached(edge, ("penstock-control", 443), ("postgres.database.svc", 5432)) == [True, False]
        sides.answers()
        assert ids(sides.stack()) == ids([one, another])
    assert sides.reached(stranger, (own, 8080)) == [True]  # it was the policy
    sides.node.kubectl("-n", NAMESPACE, "delete", "pod", "idle", "--now")


def test_a_renewed_certificate_is_taken_up_by_the_pods_that_run(sides: Sides) -> None:
    often = {"cronSchedule": "* * * * *", "renewBefore": "2160h"}
    sides.values(PRIVATE, api=sides.api, tunnel={"tokenVersion": "2"}, serverCert=often)
    before, certificate = sides.stack(), sides.node.secret(NAMESPACE, RELEASE)["tls.crt"]
    sides.shell(PRIVATE.commands("upgrade"))
    until(lambda: sides.node.secret(NAMESPACE, RELEASE)["tls.crt"] != certificate, "renewed: the certificate", 150)
    until(lambda: all(map(sides.has_reloaded, before)), "reloaded: the certificate", 150)
    after = sides.stack()
    assert ids(after) == ids(before)
    assert all(status["restartCount"] == 0 for pod in after for status in pod["status"]["containerStatuses"])
    sides.answers()


if CLOUDFLARED := os.environ.get("CLOUDFLARED"):

    def test_a_stock_agent_stands_in_our_agents_place(sides: Sides, tmp_path: Path) -> None:
        addresses = "kubectl -n mcp-tunnel get secret mcp-tunnel -o jsonpath='{.data.edge-addresses}' | base64 -d"
        edges = sides.shell(addresses).split()
        agent = {"image": compose.stock_agent_image(tmp_path, PYTHON, CLOUDFLARED)}
        sides.values(PRIVATE, api=sides.api, tunnel={"tokenVersion": "2"}, agent=agent, edge={"addresses": (edges * 4)[:4]})
        sides.shell(PRIVATE.commands("upgrade"))
        for pod in sides.stack():
            log = ("-n", NAMESPACE, "logs", pod["metadata"]["name"], "-c", "cloudflared")
            until(lambda log=log: sides.node.kubectl(*log).count("Registered tunnel connection") == 4, "four links")
        sides.answers()


def test_what_is_uninstalled_leaves_the_secret_and_then_nothing(sides: Sides) -> None:
    uninstall, forget = PRIVATE.commands("down").splitlines()
    sides.shell("kubectl -n mcp-tunnel delete -f deploy/kubernetes/hello-mcp.yaml")
    sides.shell(uninstall)
    until(lambda: left(sides) == {"secret/mcp-tunnel", "secret/api-ca"}, "gone: the release", 120)
    sides.shell(forget)
    assert left(sides) == {"secret/api-ca"}


def test_what_is_made_by_hand_is_released_and_rotated_without_the_platform(sides: Sides) -> None:
    made = sides.by_hand = prepare_by_hand(sides)
    config = {"config": {"tunnel_domain": made["TUNNEL_DOMAIN"]}}
    sides.values(PRIVATE, "external", gateway=config)
    sides.shell("kubectl -n mcp-tunnel apply -f deploy/kubernetes/hello-mcp.yaml")
    sides.shell(PRIVATE.commands("external"), **made)
    before = ids(sides.stack())
    sides.answers(domain=made["TUNNEL_DOMAIN"])
    assert not [name for name in left(sides) if name.startswith(("job", "cronjob", "role", "serviceaccount"))]
    token = sides.shell(f"penstock tunnels rotate-token {made['TUNNEL_ID']} --yes 2>/dev/null").strip()
    sides.shell(PRIVATE.commands("external-rotate"), TUNNEL_TOKEN=token)
    assert not ids(sides.stack()) & before
    sides.answers(domain=made["TUNNEL_DOMAIN"])


if "DOCKER_REGISTRY" in os.environ:

    def test_an_image_named_by_digest_is_run_whatever_its_tag_becomes(sides: Sides, tmp_path: Path) -> None:
        config = {"config": {"tunnel_domain": sides.by_hand["TUNNEL_DOMAIN"]}}
        with registry(tmp_path / "registry") as there:
            pinned = there.push(sides.image)
            sides.values(PRIVATE, "external", gateway=config, image=yaml.safe_load(there.pinned("yaml", pinned))["image"])
            sides.shell(PRIVATE.commands("upgrade"))
            assert images(before := sides.stack()) == {pinned}
            there.move_tag(sides.image)
            sides.node.kubectl("-n", NAMESPACE, "delete", "pods", *STACK)
            assert images(after := sides.stack()) == {pinned}
            assert not ids(before) & ids(after)
            sides.answers(domain=sides.by_hand["TUNNEL_DOMAIN"])
            sides.values(PRIVATE, "external", gateway=config)
            sides.shell(PRIVATE.commands("upgrade"))


def test_an_upgrade_of_the_platform_rolls_every_pod_and_agents_stay_and_it_can_go_back(sides: Sides) -> None:
    before, agents = ids(sides.node.ready("penstock")), ids(sides.stack())
    control = {**sides.platform, "config": {"limits": {"tunnels_per_organization": 1}}}
    sides.values(PLATFORM, control=control, edge={"config": {"limits": {"links": 100}}})
    with ThreadPoolExecutor() as beside:
        upgrade = beside.submit(sides.shell, PLATFORM.commands("upgrade"))
        called = [sides.call(domain=sides.by_hand["TUNNEL_DOMAIN"]) for _ in iter(upgrade.done, True)]
        upgrade.result()
    failed = [said for said in called if "Hello, node!" not in said]
    tell(f"{len(failed)} of {len(called)} calls failed while control and both edges rolled")
    assert len(failed) < len(called) / 2, failed
    assert not ids(sides.node.ready("penstock")) & before
    sides.answers(domain=sides.by_hand["TUNNEL_DOMAIN"])
    assert ids(sides.stack()) == agents
    more = "penstock tunnels create --display-name more --json 2>&1"
    assert "maximum of 1 non-archived" in sides.shell(more, check=False)
    sides.shell(PLATFORM.commands("rollback"))
    sides.node.ready("penstock")
    assert "tunnel.example.com" in sides.shell(more)
    sides.answers(domain=sides.by_hand["TUNNEL_DOMAIN"])


def test_a_platform_that_is_taken_down_leaves_what_the_guide_says_and_then_nothing(sides: Sides) -> None:
    uninstall, *forget = PLATFORM.commands("down").splitlines()
    secrets = {f"secret/penstock-{name}" for name in ("initial", "master-key", "database", "api-tls")}
    volumes = {f"persistentvolumeclaim/data-penstock-edge-{number}" for number in range(2)}
    sides.shell(uninstall)
    until(lambda: left(sides, "penstock") == secrets | volumes, "gone: the release", 120)
    sides.shell("\n".join(forget))
    assert left(sides, "penstock") == set()


def ids(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def images(pods: list[dict[str, Any]]) -> set[str]:
    """What the pods' containers run, by digest."""
    statuses = [status for pod in pods for status in pod["status"]["containerStatuses"]]
    return {status["imageID"].partition("://")[2] for status in statuses}


def left(sides: Sides, namespace: str = NAMESPACE) -> set[str]:
    """Everything in a namespace but what Kubernetes puts into each."""
    kinds = sides.node.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    listed = sides.node.kubectl("-n", namespace, "get", ",".join(kind for kind in kinds if "events" not in kind), "-o", "name")
    own = ("default", "kube-root-ca.crt")
    return {name for name in listed.split() if not name.partition("/")[2].startswith(own)}
