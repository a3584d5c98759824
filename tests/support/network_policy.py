"""NetworkPolicies enforced on a node that has no network plugin for them: each becomes rules of the packet filter.

As the API says: a pod that no policy selects for a direction takes everything; one that is selected, only what some policy
allows. One thing is stricter than the API asks for: the node is a destination like any other. It may dial its own pods, as
probes have to.
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.kubernetes_node import Node

Document = dict[str, Any]
Namespaces = dict[str, dict[str, str]]  # and their labels
_CHAIN = "PENSTOCK-TEST"
_HOOKS = ("DOCKER-USER", "INPUT")
"""Where passes what pods send, once Services are resolved: to pods and outside, and to the node."""


@contextmanager
def enforced(node: Node) -> Generator[None]:
    """The cluster's policies, on the pods there are now."""
    policies, pods, namespaces = (
        list(node.get("default", kind, "--all-namespaces")) for kind in ("networkpolicies", "pods", "namespaces")
    )
    chains = chains_of(policies, pods, {one["metadata"]["name"]: one["metadata"].get("labels", {}) for one in namespaces})
    made: list[str] = []
    try:
        for chain, rules in chains.items():
            _iptables("-N", chain)
            made.append(chain)
            for rule in rules:
                _iptables("-A", chain, *rule)
        for hook in _HOOKS:
            _iptables("-I", hook, "-j", _CHAIN)
        yield
    finally:
        for hook in _HOOKS:
            _iptables("-D", hook, "-j", _CHAIN, check=False)
        for option in ("-F", "-X"):
            for chain in reversed(made):
                _iptables(option, chain)


def chains_of(policies: list[Document], pods: list[Document], namespaces: Namespaces) -> dict[str, list[list[str]]]:
    """Chains and their rules' arguments, the one to enter last. A packet has to return from its sender's and its receiver's."""
    live = [pod for pod in pods if pod["status"].get("podIP") and pod["status"]["phase"] == "Running"]
    chains: dict[str, list[list[str]]] = {}
    entry = [["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN"]]
    for number, pod in enumerate(live):
        namespace, address = pod["metadata"]["namespace"], pod["status"]["podIP"]
        specs = [one["spec"] for one in policies if one["metadata"]["namespace"] == namespace]
        mine = [spec for spec in specs if _matches(spec["podSelector"], pod["metadata"].get("labels", {}))]
        for direction, own, other, peers in (("Egress", "-s", "-d", "to"), ("Ingress", "-d", "-s", "from")):
            of_direction = [spec for spec in mine if direction in spec["policyTypes"]]
            if not of_direction:
                continue
            allowed = [rule for spec in of_direction for rule in spec.get(direction.lower()) or []]
            chain = f"{_CHAIN}-{direction}-{number}"
            chains[chain] = [
                [*([other, at] if at else []), *port, "-j", "RETURN"]
                for rule in allowed
                for at in _addresses(rule.get(peers), namespace, live, namespaces)
                for port in _ports(rule.get("ports"))
            ] + [["-j", "DROP"]]
            entry.append([own, address, "-j", chain])
    return {**chains, _CHAIN: entry}


def _addresses(peers: list[Document] | None, namespace: str, pods: list[Document], labels: Namespaces) -> list[str]:
    """Of a rule's peers; "" is any address."""
    found: list[str] = []
    for peer in peers or [{"ipBlock": {"cidr": ""}}]:
        if "ipBlock" in peer:
            assert set(peer["ipBlock"]) == {"cidr"}, f"not known here: {peer}"
            found.append(peer["ipBlock"]["cidr"])
            continue
        selector = peer.get("namespaceSelector")
        inside = [name for name in labels if _matches(selector, labels[name])] if selector is not None else [namespace]
        found += [
            pod["status"]["podIP"]
            for pod in pods
            if pod["metadata"]["namespace"] in inside
            and _matches(peer.get("podSelector", {}), pod["metadata"].get("labels", {}))
        ]
    return found


def _ports(ports: list[Document] | None) -> list[list[str]]:
    return [["-p", port["protocol"].lower(), "--dport", str(int(port["port"]))] for port in ports or []] or [[]]


def _matches(selector: Document, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, f"not known here: {selector}"
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def _iptables(*arguments: str, check: bool = True) -> None:
    subprocess.run(["iptables", "--wait", *arguments], check=check, capture_output=not check)
