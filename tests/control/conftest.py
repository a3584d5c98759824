"""The control plane under test."""

from __future__ import annotations

from tests.support.control import api, start_api

__all__ = ["api", "start_api"]
