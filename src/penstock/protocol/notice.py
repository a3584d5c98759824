"""What an edge tells an agent of ours on a live link: where the other edges are, who signs them, and that it is going.

A notice is one request without a body, marked as such, with everything in one header; the agent answers 200. Only agents that
named the feature when they registered get one: a stock agent would take it for a request to its origin.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final, cast

from penstock.errors import IdentityError
from penstock.protocol import metadata
from penstock.protocol.errors import RemoteProtocolError
from penstock.protocol.token import parse_place

FEATURE: Final = "penstock_notices"
"""In a registration's list of features: this agent takes notices."""
MAX_WORKERS: Final = 64
MAX_NOTICE: Final = 64 * 1024
"""Characters. Thirty-two edges and four CAs have about thirty thousand."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What is empty was not said: the agent keeps what it has."""

    edges: tuple[str, ...] = ()
    """`host:port` of every edge for agents."""
    cas: tuple[bytes, ...] = ()
    """DER of the CA certificates an edge's certificate may come from."""
    draining: bool = False
    """This edge is about to go: open another link, then unregister this one."""
    worker: tuple[int, int] | None = None
    """Which of the edge's processes holds this link, counted from 0, and how many it has."""

    def request(self) -> list[tuple[bytes, bytes]]:
        """The head that carries it."""
        members: dict[str, Any] = {"edge": list(self.edges), "ca": [base64.b64encode(der).decode() for der in self.cas]}
        if self.draining:
            members["draining"] = True
        if self.worker is not None:
            members["worker"] = list(self.worker)
        value = base64.b64encode(json.dumps(members, separators=(",", ":")).encode())
        return [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", metadata.EDGE_SERVER_NAME.encode()),
            (b":path", b"/"),
            (metadata.UPGRADE, metadata.NOTICE),
            (metadata.NOTICE_BODY, value),
        ]


def parse_notice(value: bytes) -> Notice:
    """A notice out of its header; RemoteProtocolError when it is none."""
    if len(value) > MAX_NOTICE:
        raise RemoteProtocolError("a notice is too long")
    try:
        members: object = json.loads(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise RemoteProtocolError("a notice is not base64 of JSON") from None
    if not isinstance(members, dict):
        raise RemoteProtocolError("a notice is not an object")
    fields = cast(dict[str, object], members)
    try:
        edges, cas = parse_place(fields)
    except IdentityError as exc:
        raise RemoteProtocolError("a notice names edges that are none", detail=exc.public) from None
    return Notice(edges, cas, draining=fields.get("draining") is True, worker=_worker(fields.get("worker")))


def _worker(value: object) -> tuple[int, int] | None:
    match value:
        case None:
            return None
        case [int(number), int(of)] if 0 <= number < of <= MAX_WORKERS:
            return number, of
        case _:
            raise RemoteProtocolError("a notice names a worker that is none")
