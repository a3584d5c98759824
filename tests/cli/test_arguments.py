from __future__ import annotations

import pytest

from penstock.cli.arguments import of_container


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([], ["proxy"]),
        (["-config", "/etc/mcp-proxy/config.yaml"], ["proxy", "-config", "/etc/mcp-proxy/config.yaml"]),
        (["-tunnel-domain=a.example.com"], ["proxy", "-tunnel-domain=a.example.com"]),
        (["tunnel", "--no-autoupdate", "run"], ["tunnel", "--no-autoupdate", "run"]),
        (["edge", "--config", "edge.yaml"], ["edge", "--config", "edge.yaml"]),
    ],
)
def test_a_containers_command_line_means_what_the_published_images_do(given: list[str], meant: list[str]) -> None:
    assert of_container(given) == meant
