"""`--output`, and where it leads in a pod and outside of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock.errors import ConfigError
from penstock.setup.cluster import Cluster
from penstock.setup.output import parse_output

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def test_in_a_pod_the_published_secret_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("tunnels\n")
    pod = Cluster.of_this_pod(VARIABLES, tmp_path)
    assert pod is not None
    assert (pod.base_url, pod.namespace) == ("https://10.96.0.1:443", "tunnels")
    assert str(parse_output(None, pod)) == "k8s-secret:mcp-gateway"
    assert str(parse_output("k8s-secret:mcp-tunnel", pod)) == "k8s-secret:mcp-tunnel"
    assert str(parse_output("dir:/data", pod)) == "dir:/data"


def test_an_api_server_of_ipv6_is_bracketed(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("tunnels")
    pod = Cluster.of_this_pod({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert pod is not None
    assert pod.base_url == "https://[fd00::1]:443"


@pytest.mark.parametrize("variables", [{}, VARIABLES])
def test_a_pod_has_both_the_variables_and_the_account(tmp_path: Path, variables: dict[str, str]) -> None:
    if not variables:
        (tmp_path / "namespace").write_text("tunnels")
    assert Cluster.of_this_pod(variables, tmp_path) is None


@pytest.mark.parametrize("text", [None, "/data", "dir:", "k8s-secret:", "k8s-secret:x", "s3:x"])
def test_outside_a_pod_a_directory_is_the_only_output(text: str | None) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_output(text, None)
    assert "--output" in refused.value.public
    assert refused.value.hint
