"""Who may call: callers prove themselves inside inner TLS, past the relay, which could otherwise stand in for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from penstock.errors import CertificateError
from penstock.tls.rules import Rule, check_caller_certificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection

    from penstock.tls.names import CallerIdentity


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Callers:
    """The policy of `callers`: the handshake has verified the certificate, this says whose it may be."""

    __slots__ = ("_allow", "_now")

    def __init__(self, allow: Collection[str] | None, *, now: Callable[[], datetime] = _utc_now) -> None:
        self._allow = None if allow is None else frozenset(allow)
        self._now = now

    def check(self, session: ssl.SSLObject) -> CallerIdentity | None:
        """Who called, or None for somebody without a certificate; CertificateError for somebody who may not.

        A session without a certificate passes here only where the context let it: with mode `off` or `request`.
        """
        der = session.getpeercert(binary_form=True)
        if der is None:
            return None
        identity = check_caller_certificate(der, self._now())
        if self._allow is not None and not self._allow & {identity.workspace_id, identity.caller_id}:
            raise CertificateError(
                Rule.CALLER_IDENTITY.value,
                "the caller is not one that this proxy serves",
                detail=f"{identity.caller_id} of {identity.workspace_id}",
                hint="add its workspace or caller id to callers.allow",
            )
        return identity
