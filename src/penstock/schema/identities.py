"""Who is who, as the control plane says it (`/penstock/v1/me`, `/penstock/v1/login`, …)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer peer may say more


class Me(_Wire):
    """`GET /penstock/v1/me`: whose credential this is, and what it opens."""

    id: str
    type: str
    """`api_key`, `service_account`, `user` or `operator`."""
    organization_id: str | None
    """None for an operator."""
    workspace_id: str | None
    scopes: tuple[str, ...]
