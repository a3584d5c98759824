"""The proxy's pages: the reference is the models', every log line is explained, every promise names a test that exists."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.docs.pages import ROOT, is_test, named_tests, page
from tools import configuration_page

from penstock.config.load import load
from penstock.proxy.config import ProxyConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = re.findall(r"```yaml\n(.*?)```", page("configuration.md"), re.DOTALL)


def test_the_reference_is_what_the_models_say() -> None:
    assert page("configuration.md") == configuration_page.render(), "run `make reference`"


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_configuration(text: str) -> None:
    assert load(ProxyConfig, role="proxy", flags=yaml.safe_load(text)).routes


def test_every_line_of_the_log_is_explained() -> None:
    explained = set(re.findall(r"^\| `([^`]+)` \|", page("troubleshooting.md"), re.MULTILINE))
    logged = set(_events())
    assert {"route configured", "tls handshake failed", "no route for host"} <= logged
    assert logged <= explained


@pytest.mark.parametrize(("file", "name"), named_tests("proxy.md"))
def test_every_test_it_names_exists(file: str, name: str) -> None:
    assert is_test(file, name)


def _events() -> Iterator[str]:
    for file in (ROOT / "src" / "penstock" / "proxy").glob("**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"debug", "info", "warning", "error"}
                and "log" in ast.unparse(node.func.value)
                and isinstance(node.args[0], ast.Constant)
            ):
                yield str(node.args[0].value)
