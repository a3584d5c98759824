"""The settings of an agent."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations at run time
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from penstock.config import admin
from penstock.config.load import RoleConfig, Section
from penstock.config.types import ByteSize, Duration, HostPort  # noqa: TC001 - pydantic reads the annotations
from penstock.secret import Secret


def _secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        msg = "must be text"
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns ValueError into a message with the field's path
    return Secret(value.strip())


def _edges(value: object) -> object:
    """A comma list, as `TUNNEL_EDGE` has it, or a list."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _origin(url: str) -> str:
    if not url:
        return url
    parts = urlsplit(url)
    if parts.scheme not in {"http", "ws"} or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        msg = "must be like http://localhost:8080: the proxy beside the agent, without a path"
        raise ValueError(msg)
    _ = parts.port  # raises ValueError where it is no number
    return url


class AgentLimits(Section):
    """What one agent waits for and holds."""

    streams_a_link: int = Field(default=4096, ge=1)
    """Streams open at once on one link; the edge is told, and refused beyond it."""

    dial_seconds: Duration = 10.0
    """TCP and TLS to an edge, together: a SYN lost twice is sent again after three seconds, and a name server may be slow."""

    registration_seconds: Duration = 10.0
    """From TLS to the edge's answer to the registration, its control stream included."""

    origin_seconds: Duration = 10.0
    """To connect to the proxy and get its response head."""

    refusal_bytes: ByteSize = 8 * 1024
    """How much is passed on of the body of an answer that is not an upgrade."""

    ping_interval: Duration = 7.5
    """How often a link is pinged, busy or not."""

    ping_timeout: Duration = 7.5
    """Silence after a ping that ends the link: a half-open one is found within 20 s."""

    backoff_first: Duration = 1.0
    """Ceiling of the first wait before a link is dialled again; the wait is drawn between zero and it."""

    backoff_most: Duration = 30.0
    """Ceiling of all later ones."""

    refused_wait: Duration = 60.0
    """Ceiling of the wait after the edge refused the token: nothing heals it but a new one."""

    avoid_seconds: Duration = 30.0
    """How long an edge that failed, or said that it goes, is dialled only when there is no other."""

    respread_interval: Duration = 60.0
    """How often it is looked whether links should move to an edge with fewer of ours, one at a time; sooner for a new edge."""

    token_poll: Duration = 5.0
    """How often the token's file is read again; once more whenever the edge refuses the token."""


class AgentConfig(RoleConfig):
    """An agent."""

    token: Annotated[Secret, BeforeValidator(_secret)] | None = None
    """The tunnel token; from the environment or a file, never from a command line."""

    token_file: Path | None = None
    """File with the tunnel token."""

    url: Annotated[str, AfterValidator(_origin)] = "http://localhost:8080"
    """The proxy. Empty means that there is none: every stream is answered 503."""

    edge: Annotated[tuple[HostPort, ...], BeforeValidator(_edges)] = ()
    """Edges to dial instead of those in the token."""

    cacert: Path | None = None
    """CA bundle that an edge's certificate is checked against, instead of the token's."""

    https_proxy: Annotated[Secret, BeforeValidator(_secret)] | None = None
    """HTTP proxy to dial edges through, as `http://user:password@proxy:3128`; the command takes `HTTPS_PROXY` for it."""

    no_proxy: str = ""
    """Edges that are dialled without it: names, addresses and networks with commas; the command takes `NO_PROXY` for it."""

    metrics: HostPort | None = admin.AGENT
    """`/ready`, `/healthz`, `/readyz` and `/metrics`; `null` turns them off."""

    grace_period: Duration = 30.0
    """How long streams may go on after the agent was told to stop; at most 3 minutes."""

    ha_connections: int = Field(default=4, ge=1, le=16)
    """Links held, spread over the edges."""

    limits: AgentLimits = AgentLimits()
    """What one agent waits for and holds."""

    @model_validator(mode="after")
    def _has_token(self) -> AgentConfig:
        if self.token is None and self.token_file is None:
            msg = "there is no tunnel token: set TUNNEL_TOKEN, TUNNEL_TOKEN_FILE or --token-file, or token_file in the settings"
            raise ValueError(msg)
        if self.token is not None and self.token_file is not None:
            msg = "token and token_file are both set; one is to be"
            raise ValueError(msg)
        if self.grace_period > 180:
            msg = "grace_period is at most 3m"
            raise ValueError(msg)
        return self
