"""Who may call: callers prove themselves inside inner TLS, past the relay, which could otherwise stand in for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from penstock.errors import CertificateError
from penstock.tls.certs import load_certificate
from penstock.tls.rules import Rule, check_caller_certificate

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from penstock.proxy.config import CallersConfig
    from penstock.tls.names import CallerIdentity

_EVER: Final = datetime.max.replace(tzinfo=UTC)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Admission(NamedTuple):
    """Who was let in (None: somebody without a certificate), until when, and by which policy."""

    identity: CallerIdentity | None
    until: datetime
    by: Callers


class Callers:
    """The policy of `callers`: the handshake has verified the certificate, this says whose it may be, and for how long."""

    __slots__ = ("_allow", "_ca", "_mode", "_now")

    def __init__(self, config: CallersConfig, ca: str | None, *, now: Callable[[], datetime] = _utc_now) -> None:
        self._mode = config.mode
        self._allow = None if config.allow is None else frozenset(config.allow)
        self._ca = ca
        self._now = now

    def admit(self, session: ssl.SSLObject) -> Admission:
        """Who called; CertificateError for somebody who may not.

        A session without a certificate passes here only where the context let it: with mode `off` or `request`.
        """
        der = session.getpeercert(binary_form=True)
        if der is None:
            return Admission(None, _EVER, self)
        identity = check_caller_certificate(der, self._now())
        if not self._is_allowed(identity):
            raise CertificateError(
                Rule.CALLER_IDENTITY.value,
                "the caller is not one that this proxy serves",
                detail=f"{identity.caller_id} of {identity.workspace_id}",
                hint="add its workspace or caller id to callers.allow",
            )
        return Admission(identity, load_certificate(der).not_valid_after_utc, self)

    def still_admits(self, admission: Admission) -> bool:
        """Whether who was let in may begin another request: in time, and under the policy of now, not of the handshake.

        Asked before each request, so it is two comparisons unless the settings were read anew since.
        """
        return self._now() <= admission.until and (admission.by is self or self._would_admit(admission))

    def _would_admit(self, admission: Admission) -> bool:
        if self._mode == "off":
            return True
        if admission.identity is None:
            return self._mode != "require"
        # Another CA may not vouch for it: the next handshake tells.
        return admission.by._ca == self._ca and self._is_allowed(admission.identity)  # noqa: SLF001 - of the same class

    def _is_allowed(self, identity: CallerIdentity) -> bool:
        return self._allow is None or bool(self._allow & {identity.workspace_id, identity.caller_id})
