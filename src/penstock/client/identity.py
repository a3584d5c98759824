"""Who a caller is: a key made here that never leaves the machine, and a certificate of a day for it, renewed in time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from penstock.errors import UnavailableError
from penstock.tls import certs, contexts, rules
from penstock.tls.certs import KeyPair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.client.control import ControlClient
    from penstock.client.kept import KeptPair
    from penstock.schema.callers import CallerCertificate
    from penstock.tls.contexts import TLSContext
    from penstock.tls.names import CallerIdentity

_RENEW_AT: Final = 2 / 3
"""How much of its life a certificate has when it is renewed: the last third (8 hours of 24) outlasts an outage of control."""

_RETRY_SECONDS: Final = 30.0
"""After a renewal that failed while the old certificate still holds: calls go on, control is not asked with each of them."""

_CONTEXTS: Final = 64
"""Contexts kept, one a set of trust anchors: a process that calls more tunnels than this builds some anew (0.5 ms each)."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class CallerCredentials:
    """The identity of one process towards edges and proxies. Nothing is asked of control before it is needed."""

    def __init__(self, control: ControlClient, *, kept: KeptPair | None = None, now: Callable[[], datetime] = _utc_now) -> None:
        """kept: where another run may have left one, and the next may find this one's."""
        self._control = control
        self._file = kept
        self._now = now
        self._renewing = asyncio.Lock()
        self._issued: _Issued | None = None
        self._retry_at: float = 0.0
        self._contexts: dict[tuple[str, tuple[str, ...]], TLSContext] = {}

    async def pair(self) -> KeyPair:
        """The current certificate and its key. Raises what `ControlClient.caller_certificate` raises, while there is none."""
        return (await self._current()).pair

    async def identity(self) -> CallerIdentity:
        """Whom the current certificate speaks for."""
        return (await self._current()).identity

    @property
    def is_of_another_run(self) -> bool:
        """Whether the certificate in use was found: what has changed since, such as its CA, nobody told it."""
        return self._issued is not None and self._issued.is_found

    def forget(self) -> None:
        """The certificate is accepted no more: the next use asks for another."""
        if self._issued is not None and self._file is not None:
            self._file.drop(self._issued.pair)
        self._issued = None
        self._contexts.clear()

    async def outer(self, edge_ca_pem: str) -> TLSContext:
        """A context for the TLS to an edge. Kept as long as the certificate, so that building it costs nothing a call."""
        pair = await self.pair()
        return self._kept(("outer", (edge_ca_pem,)), lambda: contexts.caller_outer(edge_ca_pem, pair))

    async def inner(self, anchors: Sequence[str]) -> TLSContext:
        """A context for the TLS to a proxy, under these CA certificates (PEM)."""
        pair = await self.pair()
        return self._kept(("inner", tuple(anchors)), lambda: contexts.caller_inner(anchors, pair))

    def _kept(self, key: tuple[str, tuple[str, ...]], build: Callable[[], TLSContext]) -> TLSContext:
        context = self._contexts.pop(key, None) or build()
        self._contexts[key] = context  # the last used is the last to go
        if len(self._contexts) > _CONTEXTS:
            del self._contexts[next(iter(self._contexts))]
        return context

    async def _current(self) -> _Issued:
        if self._issued is None or self._issued.is_due(self._now()):
            async with self._renewing:  # many streams open at once; one of them asks
                if self._issued is None and self._file is not None:
                    self._issued = await asyncio.to_thread(_found, self._file, self._now())
                if self._issued is None or self._issued.is_due(self._now()):
                    await self._renew(self._issued)
        if self._issued is None:  # pragma: no cover - `_renew` returns with one or raises
            raise UnavailableError("there is no caller certificate")
        return self._issued

    async def _renew(self, old: _Issued | None) -> None:
        holds = old is not None and self._now() < old.not_after
        loop = asyncio.get_running_loop()
        if holds and loop.time() < self._retry_at:
            return
        key = certs.make_ec_key()
        try:
            answer = await self._control.caller_certificate(certs.make_csr(key, "penstock caller"))
            self._issued = _Issued.of(answer, key, self._now())
        except UnavailableError:
            # Control's outage is no reason to stop calling while the certificate holds.
            if not holds:
                raise
            self._retry_at = loop.time() + _RETRY_SECONDS
            return
        self._contexts.clear()
        if self._file is not None:
            await asyncio.to_thread(self._file.keep, self._issued.pair)


def _found(kept: KeptPair, now: datetime) -> _Issued | None:
    pair = kept.load(now)
    if pair is None:
        return None
    certificate = certs.load_certificate(pair.certificate_pem)
    identity = rules.check_caller_certificate(certs.certificate_to_der(certificate), now)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return _Issued(pair, identity, begin + (end - begin) * _RENEW_AT, end, is_found=True)


class _Issued:
    """One certificate, with what was read from it and not from the answer around it."""

    def __init__(
        self, pair: KeyPair, identity: CallerIdentity, renew_at: datetime, not_after: datetime, *, is_found: bool = False
    ) -> None:
        self.pair = pair
        self.identity = identity
        self.not_after = not_after
        self.is_found = is_found
        self._renew_at = renew_at

    @classmethod
    def of(cls, answer: CallerCertificate, key: certs.PrivateKey, now: datetime) -> _Issued:
        certificate = certs.load_certificate(answer.certificate_pem)
        identity = rules.check_caller_certificate(certs.certificate_to_der(certificate), now)
        if certificate.public_key() != key.public_key():
            raise UnavailableError("the control plane signed another key than ours", hint="check the API URL")
        not_after = certificate.not_valid_after_utc
        return cls(KeyPair.of(certificate, key), identity, now + (not_after - now) * _RENEW_AT, not_after)

    def is_due(self, now: datetime) -> bool:
        return now >= self._renew_at
