"""End-to-end tests that need a program from elsewhere exist only where an environment variable names it."""

from __future__ import annotations

import os

_NEEDS = {
    "test_cloudflared.py": {"CLOUDFLARED"},
    "test_acme.py": {"PEBBLE"},
    "test_kubernetes_[is]*.py": {"KUBE_APISERVER"},
    "test_kubernetes_node.py": {"KUBERNETES_BINARIES", "PENSTOCK_TEST_PYTHON_IMAGE"},
    "test_compose.py": {"PENSTOCK_TEST_PYTHON_IMAGE"},  # a slim Python of the engine's, and with it an engine
}

collect_ignore_glob = [test for test, variables in _NEEDS.items() if not all(map(os.environ.get, variables))]
