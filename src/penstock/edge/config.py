"""The settings of an edge."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - pydantic reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from penstock.config.load import RoleConfig, Section
from penstock.config.types import ByteSize, Duration, HostPort

if TYPE_CHECKING:
    from collections.abc import Sequence

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _label(text: str) -> str:
    if _LABEL.fullmatch(text) is None:
        msg = "must be one DNS label: lower-case letters, digits and hyphens"
        raise ValueError(msg)
    return text


class EdgeLimits(Section):
    """What one edge takes on before it refuses."""

    callers: int = Field(default=10_000, ge=1)
    """Caller connections at once; each holds two TLS sessions' worth of memory (about 44 KiB idle)."""

    links: int = Field(default=4_000, ge=1)
    """Agent links at once: a thousand agents with four each."""

    streams_a_link: int = Field(default=4096, ge=1)
    """Streams open at once on one link; beyond it another link is tried, then callers are refused."""

    head_bytes: ByteSize = 16 * 1024
    """A caller's request head: what nginx and Apache take."""

    head_seconds: Duration = 10.0
    """How long a caller may take for TLS and its request head each; longer is a slow-loris."""

    registration_seconds: Duration = 10.0
    """From an agent's TLS to its registration; stock agents send it at once and wait 5 s for the reply."""

    open_seconds: Duration = 15.0
    """How long an agent may take to answer a stream with the proxy's response head."""

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
    """Folder for key, certificate, credential and the last snapshot; made with mode 0700."""

    name: Annotated[str, AfterValidator(_label)] = "edge"
    """One DNS label, unique among the edges of a control plane."""

    callers_addr: HostPort = HostPort("127.0.0.1", 8443)
    """Where callers are accepted."""

    agents_addr: HostPort = HostPort("127.0.0.1", 7844)
    """Where agents are accepted."""

    advertise_callers: HostPort | None = None
    """What callers are told to dial; `callers_addr` when not set."""

    advertise_agents: HostPort | None = None
    """What tokens tell agents to dial; `agents_addr` when not set."""

    admin_addr: HostPort | None = HostPort("127.0.0.1", 8444)
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
