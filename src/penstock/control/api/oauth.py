"""The published token exchange (`POST /v1/oauth/token`). It asks for no credential, version or beta."""

# ruff: noqa: TC001 - FastAPI reads the annotations at run time

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request

from penstock.control.api.conditions import CoreOf
from penstock.control.api.routes import LateRoute
from penstock.control.service import exchange
from penstock.control.service.issuer_keys import IssuerKeys
from penstock.schema.federation import TokenAnswer, TokenRequest

router: Final = APIRouter(prefix="/v1/oauth", route_class=LateRoute)


def _issuer_keys(request: Request) -> IssuerKeys:
    issuer_keys: IssuerKeys = request.app.state.issuer_keys
    return issuer_keys


@router.post("/token", responses={401: {}})
async def token(core: CoreOf, issuer_keys: Annotated[IssuerKeys, Depends(_issuer_keys)], body: TokenRequest) -> TokenAnswer:
    """Exchange an assertion for a bearer."""
    return await exchange.exchange(core, issuer_keys, body)
