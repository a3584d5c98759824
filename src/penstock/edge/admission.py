"""Who gets in: pure decisions from the directory, closed by default.

One normalized host decides everything: tunnel, permission and link come from the same value, so no two parsers can
disagree about it. Unknown, archived and foreign tunnels get one answer, so that nobody learns which tunnels exist.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.errors import TunnelError, TunnelErrorCode
from penstock.protocol.metadata import MANAGEMENT_HOSTS

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from penstock.edge.directory import Directory
    from penstock.schema.edges import CallerRecord, TunnelRecord
    from penstock.tls.names import CallerIdentity

# A stock agent retries for ever on a cause that contains "Unauthorized", and ends its process on any other; a tunnel
# made a moment ago may not have reached this edge yet, so an unknown one must never end an agent.
UNAUTHORIZED: Final = "Unauthorized: this tunnel or its token is not known here"
_NO_VERIFIER: Final = "0" * 64  # compared against when there is none, so that an unknown tunnel takes as long


@dataclass(frozen=True, slots=True)
class AgentRefused:
    """Why an agent may not register; the texts and the retry are what the registration's reply says."""

    cause: str
    should_retry: bool
    retry_after_s: float


def admit_agent(
    directory: Directory, *, account: str, tunnel_id: UUID, secret: bytes, now: datetime
) -> TunnelRecord | AgentRefused:
    """The tunnel an agent may serve. The secret is all that authenticates an agent on this wire."""
    tunnel = directory.tunnels.get(tunnel_id)
    shown = hashlib.sha256(secret).hexdigest()
    known = False
    for verifier in _verifiers(tunnel, now) or (_NO_VERIFIER,):
        known |= hmac.compare_digest(shown, verifier)  # no early end: a rotation's two values take the same time
    account_known = hmac.compare_digest(account.encode(), tunnel.account.encode() if tunnel is not None else b"")
    if tunnel is None or not known or not account_known:
        return AgentRefused(UNAUTHORIZED, should_retry=True, retry_after_s=5.0)
    return tunnel


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller may open streams to this tunnel, under this host."""

    caller: CallerRecord
    tunnel: TunnelRecord
    host: str


def known_caller(directory: Directory, identity: CallerIdentity, now: datetime) -> CallerRecord:
    """The feed's record of a caller; TunnelError when there is none that holds."""
    caller = directory.callers.get(identity.serial)
    if caller is None or not _is_same(caller, identity) or caller.expires_at <= now:
        raise TunnelError(TunnelErrorCode.CALLER_FORBIDDEN, "this caller's certificate is not accepted")
    return caller


def admit_caller(directory: Directory, identity: CallerIdentity, host: str, now: datetime) -> Admission:
    """The tunnel behind `host` (normalized) if `identity` may use it; else TunnelError."""
    caller = known_caller(directory, identity, now)
    tunnel = None if host in MANAGEMENT_HOSTS else directory.tunnel_of(host)
    if tunnel is None or tunnel.organization_id != caller.organization_id or tunnel.workspace_id != caller.workspace_id:
        raise TunnelError(TunnelErrorCode.TUNNEL_NOT_FOUND, "there is no such tunnel")
    if tunnel.certificates == 0:
        raise TunnelError(TunnelErrorCode.CERTIFICATE_MISSING, "the tunnel has no active CA certificate")
    return Admission(caller, tunnel, host)


def _verifiers(tunnel: TunnelRecord | None, now: datetime) -> tuple[str, ...]:
    """The present value, and in a rotation's overlap the one before it."""
    if tunnel is None:
        return ()
    return (*tunnel.verifiers, *(retiring.verifier for retiring in tunnel.retiring if now < retiring.until))


def _is_same(caller: CallerRecord, identity: CallerIdentity) -> bool:
    """The feed and the certificate must say the same: a serial alone names nobody."""
    return (caller.organization_id, caller.workspace_id, caller.caller_id) == (
        identity.organization_id,
        identity.workspace_id,
        identity.caller_id,
    )
