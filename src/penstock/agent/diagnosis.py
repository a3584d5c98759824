"""Why an edge's certificate is not accepted, said so that a person knows what to do. A table, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import IdentityError

if TYPE_CHECKING:
    import ssl
    from datetime import datetime

# OpenSSL's x509_vfy.h.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_SIGNER: Final = frozenset({2, 7, 18, 19, 20, 21})
_WRONG_NAME: Final = frozenset({62, 64})


def explain(error: ssl.SSLCertVerificationError, now: datetime) -> IdentityError:
    """What the failed verification means. `now`: this machine's time, which may be what is wrong."""
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    match error.verify_code:
        case code if code == _NOT_YET_VALID:
            text, hint = "is not valid yet", f"{clock}: set it, by NTP best"
        case code if code == _EXPIRED:
            text = "has expired"
            hint = f"{clock}; if that is right, the edge failed to renew its certificate: its log says why"
        case code if code in _UNKNOWN_SIGNER:
            text = "is not signed by a CA that this agent trusts"
            hint = "the edge's CA was replaced, or something else answers at this address: reveal the token again"
        case code if code in _WRONG_NAME:
            text = "is not that of an edge for agents"
            hint = "the address may be that of another service: check the port, 7844 by default"
        case _:
            text, hint = f"is not accepted: {error.verify_message}", "reveal the token again, or check cacert"
    return IdentityError(f"the edge's certificate {text}", detail=error.verify_message, hint=hint)
