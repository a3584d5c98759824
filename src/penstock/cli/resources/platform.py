"""What a platform operator does: organizations, and the edges that serve all of them."""

from __future__ import annotations

from typing import Final

from penstock.cli.resources.table import Command, Flag, Resource

_ORGANIZATION: Final = "/penstock/v1/organizations/{organization_id}"

ORGANIZATIONS: Final = Resource(
    "organizations",
    "Organizations on this platform; for its operators.",
    (
        Command(
            "create",
            "POST",
            "/penstock/v1/organizations",
            "Make an organization and its first admin, and print their password.",
            (Flag("name", "Its name.", is_required=True), Flag("admin_email", "Its first admin.", is_required=True)),
            reveals="admin_password",
        ),
        Command(
            "list",
            "GET",
            "/penstock/v1/organizations",
            "List organizations, newest first.",
            columns=("id", "name", "created_at", "suspended_at"),
        ),
        Command("get", "GET", _ORGANIZATION, "Show one organization."),
        Command(
            "suspend",
            "POST",
            f"{_ORGANIZATION}/suspend",
            "Stop everything of an organization; nothing is lost.",
            asks="stop everything of organization {organization_id}",
        ),
        Command("resume", "POST", f"{_ORGANIZATION}/resume", "Let a suspended organization work again."),
        Command(
            "delete",
            "DELETE",
            _ORGANIZATION,
            "Delete an organization for good: its secrets and its caller CA are destroyed.",
            asks="delete organization {organization_id} for good, with everything in it",
        ),
    ),
)

EDGES: Final = Resource(
    "edges",
    "Edges, and the tokens they enrol with; for the platform's operators.",
    (
        Command(
            "list",
            "GET",
            "/penstock/v1/edges",
            "List every enrolled edge.",
            columns=("id", "name", "caller_address", "agent_address", "serial", "enrolled_at"),
        ),
        Command(
            "revoke",
            "DELETE",
            "/penstock/v1/edges/{edge_id}",
            "End an edge's credential.",
            asks="revoke edge {edge_id}: it hears nothing new and nobody is sent to it",
        ),
    ),
    below=(
        Resource(
            "enrol-token",
            "Tokens that let an edge enrol.",
            (
                Command(
                    "create",
                    "POST",
                    "/penstock/v1/enrolment_tokens",
                    "Make an enrolment token and print it.",
                    reveals="enrolment_token",
                ),
                Command(
                    "list",
                    "GET",
                    "/penstock/v1/enrolment_tokens",
                    "List the tokens that still work.",
                    columns=("id", "created_at"),
                ),
                Command(
                    "revoke",
                    "DELETE",
                    "/penstock/v1/enrolment_tokens/{token_id}",
                    "End an enrolment token; edges that came with it stay.",
                    asks="end enrolment token {token_id}",
                ),
            ),
        ),
    ),
)
