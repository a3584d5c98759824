"""Tunnels and their CA certificates, which is the published Tunnels API; and their live links."""

from __future__ import annotations

from typing import Final

from penstock.cli.resources.table import ARCHIVED, Command, Flag, Kind, Resource

_TUNNEL: Final = "/v1/tunnels/{tunnel_id}"
_CERTIFICATE: Final = "/v1/tunnels/{tunnel_id}/certificates/{certificate_id}"

TUNNELS: Final = Resource(
    "tunnels",
    "Tunnels of a workspace, and the token their agents use.",
    (
        Command(
            "create",
            "POST",
            "/v1/tunnels",
            "Make a tunnel; nobody can call through it before it has a CA certificate.",
            (Flag("display_name", "What people call it."),),
            in_workspace=True,
        ),
        Command(
            "list",
            "GET",
            "/v1/tunnels",
            "List tunnels, newest first.",
            (ARCHIVED,),
            columns=("id", "domain", "display_name", "created_at", "archived_at"),
            in_workspace=True,
        ),
        Command("get", "GET", _TUNNEL, "Show one tunnel, archived or not.", in_workspace=True),
        Command(
            "archive",
            "POST",
            f"{_TUNNEL}/archive",
            "Retire a tunnel for ever: its links are cut and its domain is never given again.",
            asks="archive tunnel {tunnel_id} for ever",
            in_workspace=True,
        ),
        Command(
            "reveal-token",
            "POST",
            f"{_TUNNEL}/reveal_token",
            "Print the token of the tunnel's agents.",
            reveals="tunnel_token",
            in_workspace=True,
        ),
        Command(
            "rotate-token",
            "POST",
            f"{_TUNNEL}/rotate_token",
            "Make a new token and print it: the old one opens no new link, the links it opened stay.",
            (Flag("reason", "Kept in the audit log."),),
            reveals="tunnel_token",
            asks="rotate the token of tunnel {tunnel_id}: agents that start with the old one are refused",
            in_workspace=True,
        ),
    ),
    below=(
        Resource(
            "certificates",
            "CA certificates of a tunnel: callers trust the proxy by them. Two at most are active.",
            (
                Command(
                    "create",
                    "POST",
                    f"{_TUNNEL}/certificates",
                    "Register a CA certificate.",
                    (
                        Flag(
                            "ca_certificate_file",
                            "PEM of one CA certificate, and no key.",
                            Kind.FILE,
                            is_required=True,
                            into="ca_certificate_pem",
                        ),
                    ),
                    in_workspace=True,
                ),
                Command(
                    "list",
                    "GET",
                    f"{_TUNNEL}/certificates",
                    "List a tunnel's CA certificates, newest first.",
                    (ARCHIVED,),
                    columns=("id", "fingerprint", "created_at", "expires_at", "archived_at"),
                    in_workspace=True,
                ),
                Command("get", "GET", _CERTIFICATE, "Show one CA certificate, archived or not.", in_workspace=True),
                Command(
                    "archive",
                    "POST",
                    f"{_CERTIFICATE}/archive",
                    "Trust a CA no longer; its slot is free again.",
                    asks="archive certificate {certificate_id}: callers refuse proxies that stand on it",
                    in_workspace=True,
                ),
            ),
        ),
    ),
)

LINKS: Final = Resource(
    "links",
    "Live links between agents and edges.",
    (
        Command(
            "list",
            "GET",
            "/penstock/v1/links",
            "List live links of the workspace's tunnels, newest first.",
            (Flag("tunnel", "Only this tunnel's.", into="tunnel_id"),),
            columns=(
                "id",
                "tunnel_id",
                "agent_id",
                "version",
                "edge",
                "since",
                "streams",
                "to_agent_bytes",
                "from_agent_bytes",
            ),
            in_workspace=True,
        ),
    ),
)
