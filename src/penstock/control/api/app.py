"""Puts the routes, the envelope and the frontier together."""

from __future__ import annotations

import asyncio
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from penstock.control.api import audit, envelope, federation, launch, login, oauth, organization, own, platform, tunnels
from penstock.control.api.document import document
from penstock.control.api.frontier import Frontier
from penstock.control.service.oidc_login import OidcSignIn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from penstock.control.metrics import ControlMetrics
    from penstock.control.service.core import Core
    from penstock.control.service.feed import Feed
    from penstock.control.service.issuer_keys import IssuerKeys
    from penstock.control.service.readiness import Readiness

_ROUTERS: Final = (
    tunnels.router,
    launch.router,
    own.router,
    audit.router,
    login.router,
    organization.published,
    organization.own,
    platform.router,
    federation.published,
    federation.own,
    oauth.router,
)


def make_app(core: Core, feed: Feed, issuer_keys: IssuerKeys, readiness: Readiness, metrics: ControlMetrics) -> ASGIApp:
    """The API as one ASGI application."""
    # FastAPI's document knows neither the envelope nor the conditions; its pages would load scripts from elsewhere.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.core = core
    app.state.feed = feed
    app.state.issuer_keys = issuer_keys
    app.state.oidc = OidcSignIn(core, core.config.oidc) if core.config.oidc is not None else None
    for router in _ROUTERS:
        # As they are: including them would analyse each route again, 70 ms of every start.
        app.router.routes.extend(router.routes)
    envelope.register(app)

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]  # the decorator keeps it
        """Whether the process serves."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", response_class=PlainTextResponse, responses={503: {"content": {"text/plain": {}}}})
    async def readyz() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]  # as above
        """Whether its database answers."""
        if readiness.why_not is None:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"not ready: {readiness.why_not}\n", HTTPStatus.SERVICE_UNAVAILABLE)

    described = cache(lambda: document(app.routes))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:  # pyright: ignore[reportUnusedFunction]  # as above
        return Response(await asyncio.to_thread(described), media_type="application/json")

    return Frontier(app, core.config, metrics, core.entropy)
