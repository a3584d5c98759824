"""The proxy's pages: the reference is the models', every log line is explained, every promise names a test that exists."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.support.pages import ROOT, Page, is_test
from tools import configuration_page

from penstock.config.load import load
from penstock.proxy.config import ProxyConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE, SETTINGS = Page("proxy.md"), Page("configuration.md")


def test_the_reference_is_what_the_models_say() -> None:
    assert SETTINGS.text == configuration_page.render(), "run `make reference`"


@pytest.mark.parametrize("text", SETTINGS.blocks(language="yaml"))
def test_every_example_is_a_configuration(text: str) -> None:
    assert load(ProxyConfig, role="proxy", flags=yaml.safe_load(text)).routes


def test_every_line_of_the_log_is_explained() -> None:
    explained = set(re.findall(r"^\| `([^`]+)` \|", Page("troubleshooting.md").text, re.MULTILINE))
    logged = set(_events())
    assert {"route configured", "tls handshake failed", "no route for host"} <= logged
    assert logged <= explained


@pytest.mark.parametrize(("file", "name"), PAGE.named_tests())
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
