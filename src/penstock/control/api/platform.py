"""What a platform operator does (`/penstock/v1/…`): organizations, and the edges that serve all of them."""

# ruff: noqa: TC001 - FastAPI reads the annotations at run time

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query

from penstock.control.api.conditions import ByOperator, CoreOf
from penstock.control.api.routes import LateRoute
from penstock.control.service import edges, organizations
from penstock.schema.edges import EdgeList, EnrolmentToken, EnrolmentTokenCreated, EnrolmentTokenList
from penstock.schema.organizations import (
    Deleted,
    Organization,
    OrganizationCreate,
    OrganizationCreated,
    OrganizationPage,
)

router: Final = APIRouter(prefix="/penstock/v1", route_class=LateRoute)


@router.post("/organizations")
async def create_organization(core: CoreOf, by: ByOperator, body: OrganizationCreate) -> OrganizationCreated:
    """Make an organization and its first admin, whose password is shown once."""
    return await organizations.create(core, by, body)


@router.get("/organizations")
async def list_organizations(
    core: CoreOf,
    by: ByOperator,  # noqa: ARG001 - that there is one is the condition
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    page: str | None = None,
) -> OrganizationPage:
    """All organizations, newest first."""
    return await organizations.list_page(core, limit=limit, cursor=page)


@router.get("/organizations/{organization_id}")
async def get_organization(
    core: CoreOf,
    by: ByOperator,  # noqa: ARG001 - as above
    organization_id: str,
) -> Organization:
    """One organization."""
    return await organizations.get(core, organization_id)


@router.post("/organizations/{organization_id}/suspend")
async def suspend_organization(core: CoreOf, by: ByOperator, organization_id: str) -> Organization:
    """Stop everything of an organization."""
    return await organizations.suspend(core, by, organization_id)


@router.post("/organizations/{organization_id}/resume")
async def resume_organization(core: CoreOf, by: ByOperator, organization_id: str) -> Organization:
    """Let a suspended organization work again."""
    return await organizations.resume(core, by, organization_id)


@router.delete("/organizations/{organization_id}")
async def delete_organization(core: CoreOf, by: ByOperator, organization_id: str) -> Deleted:
    """Delete an organization for good."""
    await organizations.remove(core, by, organization_id)
    return Deleted(id=organization_id, type="organization_deleted")


@router.get("/edges")
async def list_edges(core: CoreOf, by: ByOperator) -> EdgeList:  # noqa: ARG001 - as above
    """Every enrolled edge."""
    return await edges.list_all(core)


@router.delete("/edges/{edge_id}")
async def revoke_edge(core: CoreOf, by: ByOperator, edge_id: str) -> Deleted:
    """End an edge's credential."""
    await edges.revoke(core, by, edge_id)
    return Deleted(id=edge_id, type="edge_revoked")


@router.post("/enrolment_tokens")
async def create_enrolment_token(core: CoreOf, by: ByOperator) -> EnrolmentTokenCreated:
    """Make an enrolment token; shown once."""
    return await edges.create_token(core, by)


@router.get("/enrolment_tokens")
async def list_enrolment_tokens(core: CoreOf, by: ByOperator) -> EnrolmentTokenList:  # noqa: ARG001 - as above
    """Every enrolment token that still works."""
    return await edges.list_tokens(core)


@router.delete("/enrolment_tokens/{token_id}")
async def revoke_enrolment_token(core: CoreOf, by: ByOperator, token_id: str) -> EnrolmentToken:
    """End an enrolment token; edges that came with it stay."""
    return await edges.revoke_token(core, by, token_id)
