"""Puts the routes, the envelope and the frontier together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from penstock.control.api import audit, envelope, federation, launch, login, oauth, organization, own, platform, tunnels
from penstock.control.api.frontier import Frontier
from penstock.control.service.bootstrap import is_initialized
from penstock.control.service.oidc_login import OidcSignIn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from penstock.control.metrics import ControlMetrics
    from penstock.control.service.core import Core
    from penstock.control.service.feed import Feed
    from penstock.control.service.issuer_keys import IssuerKeys

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


def make_app(core: Core, feed: Feed, issuer_keys: IssuerKeys, metrics: ControlMetrics) -> ASGIApp:
    """The API as one ASGI application."""
    # No documents yet: what is not shown to be true is not served.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.core = core
    app.state.feed = feed
    app.state.issuer_keys = issuer_keys
    app.state.oidc = OidcSignIn(core, core.config.oidc) if core.config.oidc is not None else None
    for router in _ROUTERS:
        # As they are: including them would analyse each route again, 70 ms of every start.
        app.router.routes.extend(router.routes)
    envelope.register(app)

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]  # the decorator keeps it
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]  # as above
        # A look at the database: raises the envelope's 529 or 500 when it does not answer.
        async with core.database.read() as connection:
            await is_initialized(connection)
        return PlainTextResponse("ready\n")

    return Frontier(app, core.config, metrics, core.entropy)
