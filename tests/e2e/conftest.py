"""End-to-end tests that need a program from elsewhere exist only where an environment variable names it."""

from __future__ import annotations

import os

_NEEDS = {
    "CLOUDFLARED": "test_cloudflared.py",
    "PEBBLE": "test_acme.py",
    "KUBE_APISERVER": "test_kubernetes_*.py",
    "PENSTOCK_TEST_PYTHON_IMAGE": "test_compose.py",  # a slim Python of the engine's, and with it an engine
}

collect_ignore_glob = [test for variable, test in _NEEDS.items() if not os.environ.get(variable)]
