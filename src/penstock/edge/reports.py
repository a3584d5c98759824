"""How reports of presence get to the control plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httpx2
from pydantic import ValidationError

from penstock.edge.control import bearer
from penstock.edge.presence import SilenceError
from penstock.errors import UnavailableError
from penstock.schema.edges import PresenceAnswer, PresenceReport

if TYPE_CHECKING:
    from penstock.edge.state import EdgeIdentity

_REPORT: Final = 5.0  # seconds for a report: one that takes as long as half the lease is as good as lost


class ControlReporter:
    """Presence's way to the control plane, on the edge's connections to it."""

    def __init__(self, client: httpx2.AsyncClient, identity: EdgeIdentity) -> None:
        self._client = client
        self._headers = bearer(identity.credential)

    async def report(self, report: PresenceReport) -> PresenceAnswer:
        """As `presence.Reporter` says."""
        response = await self._ask("POST", "/penstock/v1/edge/presence", report.model_dump(mode="json"))
        try:
            return PresenceAnswer.model_validate_json(response.content)
        except ValidationError as exc:
            raise UnavailableError("the control plane's answer to a report cannot be read") from exc

    async def withdraw(self, incarnation: str) -> None:
        """As `presence.Reporter` says."""
        await self._ask("DELETE", f"/penstock/v1/edge/presence/{incarnation}", None)

    async def _ask(self, method: str, path: str, body: object) -> httpx2.Response:
        try:
            response = await self._client.request(method, path, json=body, headers=self._headers, timeout=_REPORT)
        except httpx2.HTTPError as exc:
            raise SilenceError("the control plane does not answer", detail=str(exc) or type(exc).__name__) from exc
        if response.status_code not in {200, 204}:
            raise UnavailableError("the control plane took no report", detail=f"status {response.status_code}")
        return response
