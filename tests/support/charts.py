"""Helm's own engine and Kubernetes' own schemas, in an environment of their own."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tests.support.venvs import Venv

if TYPE_CHECKING:
    from collections.abc import Iterator

Document = dict[str, Any]
ROOT = Path(__file__).parents[2]
OLDEST, NEWEST = "1.25", "1.37"
"""The Kubernetes whose schemas there are."""


class Engine:
    """One chart, rendered as often as asked."""

    def __init__(self, venv: Venv, process: subprocess.Popen[str], name: str) -> None:
        self._venv = venv
        self._process = process
        self._name = name

    def answer(self, values: Document) -> Document:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def render(self, values: Document) -> list[Document]:
        answer = self.answer(values)
        assert "error" not in answer, answer["error"]
        texts = [text for name, text in answer["documents"].items() if name.endswith(".yaml")]
        return [document for text in texts for document in yaml.safe_load_all(text) if document]

    def one(self, values: Document, kind: str, name: str) -> Document:
        [found] = [d for d in self.render(values) if d["kind"] == kind and d["metadata"]["name"] == name]
        return found

    def problems(self, values: Document, minor: str, folder: Path) -> str:
        """What a Kubernetes would not take; empty when all is well."""
        file = folder / "rendered.yaml"
        file.write_text(yaml.safe_dump_all(self.render(values)))
        command = [self._venv.command("kubernetes-validate"), "--strict", "-k", minor, str(file)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return "" if ended.returncode == 0 else ended.stdout + ended.stderr


@contextmanager
def engine_of(chart: str, folder: Path) -> Iterator[Engine]:
    """The engine, with a chart of `deploy/helm`."""
    venv = Venv.make(folder / "venv")
    venv.install("helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0")
    script = str(ROOT / "tests" / "e2e" / "chart_engine.py")
    command = [venv.command("python"), script, str(ROOT / "deploy" / "helm" / chart)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Engine(venv, process, chart)
        finally:
            process.kill()


def pods(documents: list[Document]) -> list[Document]:
    """The pods that these documents lead to."""
    found: list[Document] = []
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            found.append(spec["template"]["spec"])
    return found


def is_restricted(pod: Document) -> bool:
    """Whether it meets the Pod Security Standard `restricted`; an AssertionError says where not."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["enableServiceLinks"] is False  # a Service `penstock-control` would set PENSTOCK_CONTROL_PORT
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"configMap", "secret", "projected", "emptyDir"}
    assert {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"} <= allowed
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["limits"]["memory"]
    return True


def merge(values: Document, more: Document) -> Document:
    """As Helm puts one file of values over another."""
    both = dict(values)
    for key, value in more.items():
        both[key] = merge(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both
