"""What an edge and the control plane say to each other (`/penstock/v1/edges`, `/penstock/v1/edge/…`).

An edge holds no database credential and cannot write certificates: it enrols once, then pulls signed snapshots.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads annotations at run time
from typing import Final

from pydantic import Field

from penstock.schema.wire import Wire

SNAPSHOT_CONTEXT: Final = b"penstock edge feed: snapshot, 1\0"
"""Goes before what the feed key signs, a value for each kind of thing: no signature of one is ever one of another."""

DELTA_CONTEXT: Final = b"penstock edge feed: delta, 1\0"
FRESH_CONTEXT: Final = b"penstock edge feed: fresh, 1\0"


def fresh_message(version: int, nonce: str) -> bytes:
    """What the feed key signs to say that, when it was asked with this nonce, nothing was newer than `version`."""
    return FRESH_CONTEXT + f"{version} {nonce}".encode()


class EdgeEnrolmentRequest(Wire):
    """`POST /penstock/v1/edges/enrol`, with the enrolment token as bearer."""

    name: str
    """One DNS label; the certificate then speaks for `<name>.edge.penstock.internal`."""
    caller_address: str
    """`host:port` where callers reach this edge."""
    agent_address: str
    """`host:port` where agents reach this edge; it goes into tunnel tokens."""
    csr_pem: str


class EdgeEnrolment(Wire):
    """Everything an edge has to know: its certificate, whom to trust, and the key that signs snapshots."""

    edge_id: str
    credential: str
    """The bearer secret of later requests."""
    certificate_pem: str
    edge_ca_pem: str
    caller_ca_pem: str
    feed_key: str
    """Base64 of the raw Ed25519 public key; pinned from now on."""


class EdgeCertificateRequest(Wire):
    """`POST /penstock/v1/edge/certificate`, with the edge's credential as bearer: the next certificate, in time."""

    csr_pem: str


class EdgeCertificate(Wire):
    """The answer; the edge's name and addresses are those it enrolled with."""

    certificate_pem: str
    edge_ca_pem: str


class RetiringVerifier(Wire):
    """A tunnel secret in a rotation's overlap: it registers until then, by the edge's own clock."""

    verifier: str
    until: datetime


class TunnelRecord(Wire):
    """One active tunnel as an edge knows it."""

    id: str
    wire_id: str
    """The UUID an agent registers with (`t` in its token)."""
    account: str
    """The account string an agent registers with (`a` in its token)."""
    domain: str
    organization_id: str
    workspace_id: str
    verifiers: tuple[str, ...]
    """Hex SHA-256 of each tunnel secret that may register now."""
    retiring: tuple[RetiringVerifier, ...] = ()
    """Values that a rotation replaced and that register a while longer."""
    certificates: int
    """How many CA certificates are active; with none, callers are refused."""


class CallerRecord(Wire):
    """One caller certificate whose holder may call; one whose serial is not here is refused, and so is one that ran out.

    Records stay for another such time after `expires_at`: streams opened in time go on, and end when the record goes, with its
    holder at the latest.
    """

    serial: str
    """Lowercase hex without leading zeros."""
    caller_id: str
    organization_id: str
    workspace_id: str
    expires_at: datetime


class EdgeRecord(Wire):
    """One enrolled edge as the others know it: where to pass a caller's stream, and whose certificate to accept for one."""

    name: str
    serials: tuple[str, ...]
    """Of its certificate, and of the one before it."""
    host: str
    port: int
    server_name: str


class Snapshot(Wire):
    """`GET /penstock/v1/edge/snapshot?after=<version>&wait=<seconds>&nonce=<hex>`: all of it, or 204 when nothing is newer.

    The Ed25519 signature over `SNAPSHOT_CONTEXT` and the body is in `Penstock-Signature`, base64. `version` only ever grows.
    Either answer has another in `Penstock-Fresh`, over `fresh_message` of the version it leaves the edge with: a page that was
    kept back, or an old word that nothing is newer, cannot be told again.
    """

    version: int
    tunnels: tuple[TunnelRecord, ...]
    callers: tuple[CallerRecord, ...]
    edges: tuple[EdgeRecord, ...] = ()
    """All edges; one that is not here is refused as a peer."""
    agent_edges: tuple[str, ...] = ()
    """`host:port` of every edge for agents: edges tell the agents that hold links."""
    edge_ca_pem: str = ""
    """The CAs that edges' certificates come from, one or two: for agents too."""
    caller_ca_pem: str = ""
    """The caller CAs of all organizations there are now; empty says nothing, and the edge keeps those it has."""
    mark: str = ""
    """Names the content: two states of one version that differ have different ones."""


class Delta(Wire):
    """What leads from one state to a later one; the same request with `&delta=<mark>` may be answered so, and then says
    `Penstock-Feed: delta`.

    Signed as a snapshot is, over `DELTA_CONTEXT` and the body, with `Penstock-Fresh` as there. It is for the state of which it
    names version and mark, and for no other. A record that is here is new or replaces the one of its key.
    """

    after: int
    after_mark: str
    version: int
    mark: str
    tunnels: tuple[TunnelRecord, ...] = ()
    gone_tunnels: tuple[str, ...] = ()
    """By wire id."""
    callers: tuple[CallerRecord, ...] = ()
    gone_callers: tuple[str, ...] = ()
    """By serial."""
    edges: tuple[EdgeRecord, ...] | None = None
    """All of them where one is another than before; null says that none is. So with the three that follow."""
    agent_edges: tuple[str, ...] | None = None
    edge_ca_pem: str | None = None
    caller_ca_pem: str | None = None


class LinkReport(Wire):
    """One registered link of an agent."""

    id: str = Field(max_length=36)
    wire_id: str = Field(max_length=36)
    connector_id: str = Field(max_length=36)
    version: str = Field(max_length=200)
    since: datetime


class LinkUsage(Wire):
    """What a link carries, told now and then."""

    id: str = Field(max_length=36)
    streams: int = Field(ge=0, le=2**31 - 1)
    to_agent_bytes: int = Field(ge=0, le=2**62)
    from_agent_bytes: int = Field(ge=0, le=2**62)


class PresenceReport(Wire):
    """`POST /penstock/v1/edge/presence`, every few seconds and at each change."""

    incarnation: str = Field(max_length=36)
    """A UUID of this process's life."""
    is_draining: bool = False
    links: tuple[LinkReport, ...] | None = None
    """All of them; null where nothing changed since the last report."""
    usage: tuple[LinkUsage, ...] = ()
    """Of those whose numbers changed, every ten seconds; of all when `links` are told."""


class PresenceAnswer(Wire):
    """What others hold."""

    is_known: bool
    """False: the lease had run out; report all links again."""
    holders: dict[str, tuple[str, ...]]
    """Names of the edges that hold a link of a tunnel, by its wire id; of the asking one where another of its workers does."""


class EdgeInfo(Wire):
    """One enrolled edge, as an operator sees it."""

    id: str
    name: str
    server_name: str
    caller_address: str
    agent_address: str
    serial: str
    enrolled_at: datetime


class EdgeList(Wire):
    """`GET /penstock/v1/edges`: all of them; there are few."""

    data: tuple[EdgeInfo, ...]


class EnrolmentToken(Wire):
    """One enrolment token, without its secret."""

    id: str
    created_at: datetime
    revoked_at: datetime | None


class EnrolmentTokenList(Wire):
    """`GET /penstock/v1/enrolment_tokens`: those that still work."""

    data: tuple[EnrolmentToken, ...]


class EnrolmentTokenCreated(EnrolmentToken):
    """The answer, once: with the token itself."""

    enrolment_token: str
