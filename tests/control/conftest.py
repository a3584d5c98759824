"""The control plane under test."""

from __future__ import annotations

from tests.support.control import api, database, start_api

__all__ = ["api", "database", "start_api"]
