"""The ports `up` needs."""

from __future__ import annotations

from penstock.stack import ports as shared
from penstock.up.options import Ports


def check_free(ports: Ports) -> None:
    """ConfigError for the first port that somebody else has."""
    shared.check_free(ports, "up")


def choose_free() -> Ports:
    """Ports that are free now, all different."""
    return shared.choose_free(Ports)
