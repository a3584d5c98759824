"""The settings of an edge."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - pydantic reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from penstock.config import admin
from penstock.config.load import RoleConfig, Section
from penstock.config.types import ByteSize, Duration, HostPort, Networks

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_RATE: Final = 64 * 1024
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _label(text: str) -> str:
    if _LABEL.fullmatch(text) is None:
        msg = "must be one DNS label: lower-case letters, digits and hyphens"
        raise ValueError(msg)
    return text


def _rate(value: int) -> int:
    if 0 < value < _LEAST_RATE:
        msg = "is 0, or 64KiB and more: a read takes as much at once"
        raise ValueError(msg)
    return value


class ShareLimits(Section):
    """What one organization, or one tunnel, may take of one edge process; over it callers are answered 429."""

    streams: int = Field(default=8_000, ge=1)
    """Streams at once: four fifths of `callers`, so that whatever one does, others get in."""

    streams_per_second: float = Field(default=500.0, gt=0)
    """New streams a second, on average: each costs this edge a TLS handshake, a millisecond of a core."""

    burst: int = Field(default=8_000, ge=1)
    """New streams that may come faster than that: a whole fleet comes back at once when an edge has restarted."""

    bytes_per_second: Annotated[ByteSize, AfterValidator(_rate)] = 0
    """Bytes a second, both ways together; 0 is any number. Streams wait for their turn then, and when a second's worth waits,
    new ones are refused. Off because streams of one link share it fairly anyway, and what a line may carry is its owner's."""


class EdgeLimits(Section):
    """What one edge takes on before it refuses."""

    arriving: int = Field(default=4_000, ge=1)
    """Connections of either kind in TLS, and callers before their request: one more displaces the one that has been there
    longest. As many as come back at once when an edge has restarted, and a slow-loris holds none of them for long."""

    callers: int = Field(default=10_000, ge=1)
    """Caller connections at once; each holds two TLS sessions' worth of memory (about 44 KiB idle)."""

    links: int = Field(default=4_000, ge=1)
    """Agent links at once: a thousand agents with four each."""

    streams_a_link: int = Field(default=4096, ge=1)
    """Streams open at once on one link; beyond it another link is tried, then callers are refused."""

    organization: ShareLimits = ShareLimits()
    """One organization's share."""

    tunnel: ShareLimits = ShareLimits()
    """One tunnel's share."""

    buffer_bytes: ByteSize = 256 * 1024 * 1024
    """What may wait for slow callers and slow links, with how far windows have grown for fast ones, over all links. Over it
    windows stop growing and new streams are refused. A stream that stalls holds at most 1 MiB each way, most hold nothing."""

    head_bytes: ByteSize = 16 * 1024
    """A caller's request head: what nginx and Apache take."""

    head_seconds: Duration = 10.0
    """How long a caller may take for TLS and its request head each; longer is a slow-loris."""

    registration_seconds: Duration = 10.0
    """From an agent's TLS to its registration; stock agents send it at once and wait 5 s for the reply."""

    open_seconds: Duration = 15.0
    """How long an agent may take to answer a stream with the proxy's response head."""

    silent_seconds: Duration = 2.0
    """A link that owes the answer to a ping for so long is chosen last, and a stream that waits on it is opened on another.
    Round trips take 0.4 s around the world; that the link has died is only known after `ping_timeout`."""

    return_seconds: Duration = 3.0
    """How long after a tunnel's last link here ended its callers wait for the next one; `0s` refuses them at once. An agent
    that restarts is back in one or two, and callers who give a connection five seconds still hear the refusal itself."""

    held: int = Field(default=2_000, ge=1)
    """Callers that wait so at once: a fifth of `callers`, so that agents that are away leave room for those that are there."""

    held_a_tunnel: int = Field(default=500, ge=1)
    """Callers that wait so for one tunnel at once: more would come over its agent all together."""

    feed_wait_seconds: Duration = 2.0
    """How long somebody the feed does not know yet waits for it: control issues, and the feed follows in milliseconds."""

    ping_interval: Duration = 7.5
    """How often a link is pinged, busy or not."""

    ping_timeout: Duration = 7.5
    """Silence after a ping that ends the link: a half-open one is found within 20 s."""

    handover_seconds: Duration = 5.0
    """How long a stopping edge keeps an idle link of an agent of ours, which first opens another elsewhere."""

    drain_seconds: Duration = 180.0
    """How long the streams of a link that unregistered may go on; the longest grace period a stock agent can have."""

    stop_seconds: Duration = 30.0
    """How long streams may go on when the edge stops."""


class EdgeConfig(RoleConfig):
    """An edge."""

    control_url: str
    """Where the control plane answers, e.g. `http://127.0.0.1:8700`."""

    control_ca_file: Path | None = None
    """CA bundle for an `https` control plane; the system's when not set."""

    enrolment_token_file: Path | None = None
    """File with the enrolment token; needed once, until the state folder holds an identity."""

    state_dir: Path
    """Folder for key, certificate, credential, and the last snapshot with what changed since; made with mode 0700."""

    name: Annotated[str, AfterValidator(_label)] | None = None
    """One DNS label, unique among the edges of a control plane; the machine's host name, up to its first dot, when not set. It
    is kept with the identity: a machine that is called something else later is the same edge, and one whose name is set to
    another here enrols anew. Set it in containers, which have a new host name each time they are made."""

    callers_addr: HostPort = HostPort("127.0.0.1", 8443)
    """Where callers are accepted."""

    agents_addr: HostPort = HostPort("127.0.0.1", 7844)
    """Where agents are accepted."""

    caller_networks: Annotated[Networks, Field(min_length=1)] | None = None
    """CIDRs or single addresses that callers may dial from; any address when not set. Other edges are not held to it."""

    balancer_networks: Networks = ()
    """Load balancers in front of `callers_addr`, by CIDR or address: a connection from one begins with a PROXY protocol header,
    version 2, which says who the caller is. From anywhere else such a header is refused."""

    advertise_callers: HostPort | None = None
    """What callers are told to dial; `callers_addr` when not set."""

    advertise_agents: HostPort | None = None
    """What tokens tell agents to dial; `agents_addr` when not set."""

    admin_addr: HostPort | None = admin.EDGE
    """Health and metrics; `null` turns them off."""

    stale_limit: Duration = 24 * 3600.0
    """With no word from control for so long, new streams are refused: what was revoked meanwhile is not known."""

    start_timeout: Duration = 60.0
    """How long the first start waits for control to enrol it."""

    limits: EdgeLimits = EdgeLimits()
    """What one edge takes on."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes that share this edge's ports, a core each. More than one makes `penstock edge` start and watch them."""

    worker: int | None = Field(default=None, ge=0)
    """Which of the workers this process is; set by the one that starts them. Its admin port is `admin_addr`'s plus this."""

    @property
    def is_worker(self) -> bool:
        """Whether other processes listen on the same ports."""
        return self.worker is not None

    @property
    def worker_socket(self) -> Path | None:
        """Where this worker takes streams that the others hand over."""
        return None if self.worker is None else self.worker_socket_of(self.worker)

    def sibling_sockets(self) -> Sequence[Path]:
        """The other workers' sockets."""
        if self.worker is None:
            return ()
        return [self.worker_socket_of(number) for number in range(self.workers) if number != self.worker]

    def worker_socket_of(self, number: int) -> Path:
        """Where a worker takes streams."""
        return self.state_dir / "workers" / f"{number}.sock"

    @model_validator(mode="after")
    def _is_reachable(self) -> EdgeConfig:
        for name, bound, told in (
            ("advertise_callers", self.callers_addr, self.advertise_callers),
            ("advertise_agents", self.agents_addr, self.advertise_agents),
        ):
            if told is None and bound.host in {"", "0.0.0.0", "::"}:
                msg = f"{name} is required when the listener is on every interface: nobody can dial {bound}"
                raise ValueError(msg)
        return self
