"""End-to-end tests that need a program from elsewhere exist only where an environment variable names it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.support.sides import both

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.sides import Sides

_NEEDS = {
    "test_cloudflared.py": {"CLOUDFLARED"},
    "test_acme.py": {"PEBBLE"},
    "test_kubernetes_[is]*.py": {"KUBE_APISERVER"},
    "test_kubernetes_node.py": {"KUBERNETES_BINARIES", "PENSTOCK_TEST_PYTHON_IMAGE"},
    "test_compose*.py": {"PENSTOCK_TEST_PYTHON_IMAGE"},  # a slim Python of the engine's, and with it an engine
    "test_compose_acme.py": {"PEBBLE"},
    "test_systemd_page.py": {"PENSTOCK_TEST_PYTHON_IMAGE"},
}

collect_ignore_glob = [test for test, variables in _NEEDS.items() if not all(map(os.environ.get, variables))]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """Both Compose deployments, started once for all tests of a module."""
    with both(tmp_path_factory.mktemp("compose")) as started:
        yield started
