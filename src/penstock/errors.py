"""Every error Penstock raises on purpose.

PenstockError                       three texts: public (safe to send), detail (for the log), hint (what to do next)
├── ConfigError                     a setting, flag or file is wrong; the command exits 2
├── IdentityError                 a credential, token or certificate is not accepted
│   └── CertificateError(rule)    a peer's certificate broke the named rule
├── UnavailableError                     something this role needs does not answer; may be retried
└── TunnelError(code)               the tunnel's own refusals: one code, one status, one hop
"""

from __future__ import annotations

from enum import Enum


class PenstockError(Exception):
    """An expected failure.

    public: one sentence that may be shown to any peer, lower-case and without a full stop (it stands behind "error: ", or in a
    log line) unless it is published word for word. detail: what only the log may say. hint: what the person who
    reads it can do next; a note of the exception too, so that a traceback shows it.
    """

    def __init__(self, public: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(public)
        self.public = public
        self.detail = detail
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")


class ConfigError(PenstockError):
    """A setting, a flag or a file is wrong."""


def missing_libraries(extra: str) -> str:
    """The hint where what `extra` adds is not installed. By path: the package index has somebody else's penstock."""
    return f"in the clone it was installed from: pip install '.[{extra}]'"


def unreadable(file: object, exc: OSError | UnicodeDecodeError) -> ConfigError:
    """A file that was named cannot be read; in the published words: `open /data/tls.key: permission denied`."""
    if isinstance(exc, UnicodeDecodeError):
        return ConfigError(f"{file} is not text", hint="name another file; this one holds bytes that no text has")
    reason = (exc.strerror or type(exc).__name__).lower()
    hint = "check the path"
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        hint = "check the path, as the process sees it: from its working directory, and inside its container if it has one"
    elif isinstance(exc, PermissionError):
        hint = "let the user that this process runs as read it, and enter every folder above it"
    elif isinstance(exc, IsADirectoryError):
        hint = "name a file in it"
    return ConfigError(f"open {file}: {reason}", hint=hint)


class IdentityError(PenstockError):
    """A credential was presented and is not accepted."""


class CertificateError(IdentityError):
    """A peer's certificate broke a rule; `rule` is the rule's id in `penstock.tls.rules`."""

    def __init__(self, rule: str, public: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(public, detail=detail, hint=hint)
        self.rule = rule


class UnavailableError(PenstockError):
    """Something this role needs does not answer now."""


class TunnelErrorCode(Enum):
    """The tunnel's own refusals. The value is the `Penstock-Error` header; `status` the HTTP status that goes with it."""

    TUNNEL_NOT_FOUND = "tunnel_not_found"
    CALLER_FORBIDDEN = "caller_forbidden"
    CERTIFICATE_MISSING = "certificate_missing"
    RATE_LIMITED = "rate_limited"
    AGENT_UNAVAILABLE = "agent_unavailable"
    NO_INGRESS = "no_ingress"
    PROXY_UNREACHABLE = "proxy_unreachable"
    MISDIRECTED = "misdirected"
    NO_ROUTE = "no_route"
    ADDRESS_REFUSED = "address_refused"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TLS = "upstream_tls"
    UPSTREAM_PROTOCOL = "upstream_protocol"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    BAD_REQUEST = "bad_request"
    UPGRADE_REQUIRED = "upgrade_required"
    TOO_LARGE = "too_large"
    HEAD_TOO_LARGE = "head_too_large"
    UNAUTHORIZED = "unauthorized"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    KEYS_UNAVAILABLE = "keys_unavailable"

    @property
    def status(self) -> int:
        """The HTTP status that always accompanies this code."""
        return _STATUS[self]


_STATUS: dict[TunnelErrorCode, int] = {
    TunnelErrorCode.TUNNEL_NOT_FOUND: 404,  # unknown, archived and foreign tunnels are told apart by nobody
    TunnelErrorCode.CALLER_FORBIDDEN: 403,
    TunnelErrorCode.CERTIFICATE_MISSING: 403,
    TunnelErrorCode.RATE_LIMITED: 429,
    TunnelErrorCode.AGENT_UNAVAILABLE: 502,
    TunnelErrorCode.NO_INGRESS: 503,
    TunnelErrorCode.PROXY_UNREACHABLE: 502,
    TunnelErrorCode.MISDIRECTED: 421,
    TunnelErrorCode.NO_ROUTE: 502,
    TunnelErrorCode.ADDRESS_REFUSED: 502,
    TunnelErrorCode.UPSTREAM_UNREACHABLE: 502,
    TunnelErrorCode.UPSTREAM_TLS: 502,
    TunnelErrorCode.UPSTREAM_PROTOCOL: 502,
    TunnelErrorCode.UPSTREAM_TIMEOUT: 504,
    TunnelErrorCode.BAD_REQUEST: 400,
    TunnelErrorCode.UPGRADE_REQUIRED: 426,
    TunnelErrorCode.TOO_LARGE: 413,
    TunnelErrorCode.HEAD_TOO_LARGE: 431,
    TunnelErrorCode.UNAUTHORIZED: 401,
    TunnelErrorCode.INSUFFICIENT_SCOPE: 403,
    TunnelErrorCode.KEYS_UNAVAILABLE: 503,
}


class TunnelError(PenstockError):
    """A request or a stream is refused by one of the tunnel's hops.

    Sent as `text/plain` with a `Penstock-Error` header, never shaped like JSON-RPC (clients tell the protocol's era from
    error bodies) and never with an internal address. challenge: the value of WWW-Authenticate that goes with it.
    """

    def __init__(
        self,
        code: TunnelErrorCode,
        public: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        retry_after: int | None = None,
        challenge: str | None = None,
    ) -> None:
        super().__init__(public, detail=detail, hint=hint)
        self.code = code
        self.retry_after = retry_after
        self.challenge = challenge

    @property
    def status(self) -> int:
        """The HTTP status to answer with."""
        return self.code.status


def one_line(text: str) -> str:
    """`text` as one line without control characters."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """`text` without control characters: a peer wrote some of it, and a terminal obeys escape sequences."""
    return "".join(character if character.isprintable() else "?" for character in text)
