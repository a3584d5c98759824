"""What the tunnel's hops answered, as errors a person can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import TunnelError, TunnelErrorCode

if TYPE_CHECKING:
    from penstock.net.upgrade import UpgradeResponse

_HEADER: Final = b"penstock-error"
_CODES: Final = {code.value: code for code in TunnelErrorCode}

_HINTS: Final = {
    TunnelErrorCode.TUNNEL_NOT_FOUND: "check the host; the tunnel may be archived, or of another workspace than your API key",
    TunnelErrorCode.CALLER_FORBIDDEN: "your certificate is revoked, or your address is not allowed; get a new API key",
    TunnelErrorCode.CERTIFICATE_MISSING: "register a CA certificate: without one nobody can tell the proxy from an impostor",
    TunnelErrorCode.RATE_LIMITED: "try again after the time it names",
    TunnelErrorCode.AGENT_UNAVAILABLE: "no agent holds a link; look for `Registered tunnel connection` in the agent's log",
    TunnelErrorCode.NO_INGRESS: "the agent has no target; start it with --url http://localhost:8080",
    TunnelErrorCode.PROXY_UNREACHABLE: "the agent runs but nothing listens on its --url; is the proxy up?",
    TunnelErrorCode.UPGRADE_REQUIRED: "whatever answers there is not asked for a WebSocket; is the edge's address right?",
}


def refusal_of(response: UpgradeResponse) -> TunnelError:
    """The error behind an answer that is not 101."""
    named = (response.header(_HEADER) or b"").decode("ascii", "replace")
    code = _CODES.get(named)
    text = response.body.decode("utf-8", "replace").strip()[:500]
    if code is None:
        return TunnelError(
            TunnelErrorCode.AGENT_UNAVAILABLE,
            f"the edge answered {response.status} without a reason of the tunnel's",
            detail=text or None,
            hint="something else may answer at the edge's address",
        )
    retry_after = (response.header(b"retry-after") or b"").decode("ascii", "replace")
    return TunnelError(
        code,
        f"{text} ({code.value})" if text else code.value,
        hint=_HINTS.get(code),
        retry_after=int(retry_after) if retry_after.isdigit() and len(retry_after) < 10 else None,
    )
