"""What the tunnel's hops answered, as errors a person can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import TunnelError, TunnelErrorCode

if TYPE_CHECKING:
    from penstock.net.upgrade import UpgradeResponse

HEADER: Final = "penstock-error"
_CODES: Final = {code.value: code for code in TunnelErrorCode}

_HINTS: Final = {
    TunnelErrorCode.TUNNEL_NOT_FOUND: "check the host; the tunnel may be archived, or of another workspace than your API key",
    TunnelErrorCode.CALLER_FORBIDDEN: "your certificate is revoked, or your address is not allowed; get a new API key",
    TunnelErrorCode.CERTIFICATE_MISSING: "register a CA certificate: without one nobody can tell the proxy from an impostor",
    TunnelErrorCode.RATE_LIMITED: "try again after the time it names",
    TunnelErrorCode.AGENT_UNAVAILABLE: "try again; if it stays, look for `Registered tunnel connection` in the agent's log",
    TunnelErrorCode.NO_INGRESS: "the agent has no target; start it with --url http://localhost:8080",
    TunnelErrorCode.PROXY_UNREACHABLE: "the agent runs but nothing listens on its --url; is the proxy up?",
    TunnelErrorCode.UPGRADE_REQUIRED: "whatever answers there is not asked for a WebSocket; is the edge's address right?",
    TunnelErrorCode.MISDIRECTED: "send the Host header of the URL's own host, or none",
    TunnelErrorCode.NO_ROUTE: "correct the first label of the host, or add it to `routes` in the proxy's configuration",
    TunnelErrorCode.ADDRESS_REFUSED: "the proxy's log names it, at `IP validation failed`; to let it be reached, list it "
    "in the proxy's `upstream.allowed_ips` (`penstock up`: --allow-ip)",
    TunnelErrorCode.UPSTREAM_UNREACHABLE: "is the MCP server running, and does the route name its address?",
    TunnelErrorCode.UPSTREAM_TLS: "set `upstream.tls.ca_file` or `include_system_cas` in the proxy's configuration; "
    "write http:// in the route if the MCP server speaks no TLS",
    TunnelErrorCode.UPSTREAM_PROTOCOL: "is it the MCP server's own port, and does it speak HTTP there?",
    TunnelErrorCode.UPSTREAM_TIMEOUT: "the MCP server is slow or hangs; the call may have run",
    TunnelErrorCode.BAD_REQUEST: "the proxy's log says what is malformed",
    TunnelErrorCode.TOO_LARGE: "send less, or raise the proxy's `limits.body_bytes`",
    TunnelErrorCode.HEAD_TOO_LARGE: "send fewer or shorter headers, or raise the proxy's `limits.head_bytes`",
    TunnelErrorCode.UNAUTHORIZED: "the route has `require_oauth`: send a token of its issuer as `Authorization: Bearer …`",
    TunnelErrorCode.INSUFFICIENT_SCOPE: "ask the issuer for a token with the scopes that the route needs",
    TunnelErrorCode.KEYS_UNAVAILABLE: "the proxy cannot fetch its issuer's keys now; its log says why, at `keys not fetched`",
}


def refusal_of(response: UpgradeResponse) -> TunnelError:
    """The error behind an answer to the upgrade that is not 101."""
    named = (response.header(HEADER.encode()) or b"").decode("ascii", "replace")
    retry_after = (response.header(b"retry-after") or b"").decode("ascii", "replace")
    return refusal_from("the edge", named, response.status, response.body, retry_after)


def refusal_from(who: str, named: str, status: int, body: bytes, retry_after: str) -> TunnelError:
    """The error behind an answer whose `Penstock-Error` header is `named`; `who` is the hop it came from."""
    code = _CODES.get(named)
    text = body.decode("utf-8", "replace").strip()[:500]
    if code is None:
        return TunnelError(
            TunnelErrorCode.AGENT_UNAVAILABLE,
            f"{who} answered {status} without a reason of the tunnel's",
            detail=text or None,
            hint=f"something else may answer at {who}'s address",
        )
    return TunnelError(
        code,
        f"{text} ({code.value})" if text else code.value,
        hint=_HINTS.get(code),
        retry_after=int(retry_after) if retry_after.isdigit() and len(retry_after) < 10 else None,
    )
