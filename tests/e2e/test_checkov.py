"""What the charts render, the sample's manifest and the image's recipe, held to the rules of checkov."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.e2e import test_chart, test_platform_chart
from tests.support.charts import ROOT, engine_of
from tests.support.venvs import Venv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.charts import Document

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BY_DIGEST = "the image is the user's to pin: `image.digest`, and with it this is met"
ARGUED = {
    "CKV_K8S_11": "a limit of CPU throttles every stream of a pod at once; memory, which one pod takes from others, has one",
    "CKV_K8S_15": BY_DIGEST,
    "CKV_K8S_43": BY_DIGEST,
    "CKV_K8S_35": "TUNNEL_TOKEN and API_TOKEN are how the published agent and setup are told; the TLS key is a file",
    "CKV_K8S_38": "setup and renewal write a Secret: they are the pods that need a token, and no other has one",
    "CKV2_K8S_6": "the hooks' pods listen on nothing and are gone in seconds; the sample is a sample",
    "CKV_DOCKER_7": "the base's tag is an argument, whose default is one of Python's; checkov does not look it up",
}
"""What is not met, and why not."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The checks that failed, and on what."""
    rendered = tmp_path_factory.mktemp("rendered")
    for chart, matrix in (("mcp-tunnel", test_chart.MATRIX), ("penstock", test_platform_chart.MATRIX)):
        with engine_of(chart, tmp_path_factory.mktemp(chart)) as engine:
            for number, values in enumerate(matrix.values()):
                _write(rendered / f"{chart}-{number}.yaml", engine.render(values), chart)
    sample = (ROOT / "deploy" / "kubernetes" / "hello-mcp.yaml").read_text()
    _write(rendered / "hello-mcp.yaml", list(yaml.safe_load_all(sample)), "mcp-tunnel")
    venv = Venv.make(tmp_path_factory.mktemp("checkov") / "venv")
    venv.install("checkov==3.3.30")
    failed: dict[str, set[str]] = {}
    for place in (["--directory", str(rendered)], ["--file", str(ROOT / "deploy" / "image" / "Dockerfile")]):
        _take(failed, venv, place)
    return failed


def _write(file: Path, documents: list[Document], namespace: str) -> None:
    for document in documents:
        document["metadata"]["namespace"] = namespace  # that of the release, or of `kubectl -n`
    file.write_text(yaml.safe_dump_all(documents))


def _take(failed: dict[str, set[str]], venv: Venv, place: list[str]) -> None:
    offline = ["--skip-download", "--quiet", "--compact", "--output", "json"]
    command = [venv.command("python"), venv.command("checkov"), *place, "--framework", "kubernetes", "dockerfile", *offline]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    said = json.loads(ended.stdout)
    for one in said if isinstance(said, list) else [said]:
        assert one["summary"]["passed"] > 0, ended.stderr
        assert one["summary"]["parsing_errors"] == 0
        for check in one["results"]["failed_checks"]:
            failed.setdefault(check["check_id"], set()).add(f"{check['resource']} in {check['file_path']}")


def test_what_is_not_met_is_argued_and_what_is_argued_is_not_met(found: dict[str, set[str]]) -> None:
    assert set(found) == set(ARGUED), {check: found[check] for check in set(found) - set(ARGUED)}


def test_with_a_digest_the_images_rules_are_met(found: dict[str, set[str]]) -> None:
    closed = f"/mcp-tunnel-{list(test_chart.MATRIX).index('everything closed')}.yaml"
    assert not [where for check in ("CKV_K8S_15", "CKV_K8S_43") for where in found[check] if where.endswith(closed)]


def test_only_the_hooks_and_the_renewal_have_a_token(found: dict[str, set[str]]) -> None:
    names = {where.partition(" ")[0].rpartition(".")[2] for where in found["CKV_K8S_38"]}
    assert names == {"mcp-tunnel-setup", "mcp-tunnel-cert-renew", "penstock-init"}
