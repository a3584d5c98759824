"""Who acts, as the audit log tells it, and where a request came from."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol


class Acting(Protocol):
    """Every principal: a type and an id for the log, and the organization it acts in (None: the platform itself)."""

    @property
    def actor_type(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def organization_id(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Machine:
    """Whoever runs commands on the control plane's own machine: its files are what admits them."""

    id: str = "local"
    organization_id: str | None = None

    @property
    def actor_type(self) -> str:
        """For the audit log."""
        return "machine"


@dataclass(frozen=True, slots=True)
class Origin:
    """The request that is being served. The user agent is its sender's word."""

    request_id: str
    ip_address: str | None
    user_agent: str | None


# Set once a request by the frontier, read by the audit log alone; None for what people do on the machine itself.
origin: Final[ContextVar[Origin | None]] = ContextVar("penstock_origin", default=None)
