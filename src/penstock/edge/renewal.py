"""An edge's certificate, renewed before it runs out and shown from then on; connections that live do not notice."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from penstock.errors import IdentityError, PenstockError
from penstock.net.backoff import Backoff
from penstock.tls import certs, contexts
from penstock.tls.certs import KeyPair
from penstock.tls.names import edge_server_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509
    from structlog.typing import FilteringBoundLogger

    from penstock.edge.control import ControlPlane
    from penstock.edge.metrics import EdgeMetrics
    from penstock.edge.state import EdgeIdentity, EdgeState
    from penstock.tls.contexts import TLSContext

_RENEW_LEFT: Final = 1 / 3
"""Of its life left when it is renewed: of 90 days, 30 are there for an outage of control and for somebody to notice."""
_FOLLOW_SECONDS: Final = 60.0  # both certificates hold for weeks
_UNSAVED: Final = "a restart would show the one before it"
_LOOK_SECONDS: Final = 3600.0  # the wall clock may jump: a laptop sleeps, a machine is suspended


class Presented:
    """What new connections are shown. Built anew when the certificate or the CAs of callers change."""

    def __init__(self, identity: EdgeIdentity) -> None:
        self.use(identity)

    def agents(self) -> TLSContext:
        """For the agents' port."""
        return self._agents

    def callers(self) -> TLSContext:
        """For the callers' port."""
        return self._callers

    def peer(self) -> TLSContext:
        """For dialling other edges."""
        return self._peer

    def use(self, identity: EdgeIdentity) -> None:
        """From the next connection on. ConfigError or IdentityError, and nothing changes, where it cannot be used."""
        pair = KeyPair(identity.certificate_pem, identity.key_pem)
        caller_cas = certs.load_bundle(identity.caller_ca_pem)
        # Edges dial the callers' port too, with certificates of their own CA; what they may do there is the ingress's matter.
        callers = contexts.edge_callers(pair, [identity.caller_ca_pem, identity.edge_ca_pem])
        self._agents, self._callers, self._peer = (
            contexts.edge_agents(pair),
            callers,
            contexts.edge_peer(pair, identity.edge_ca_pem),
        )
        self.identity: EdgeIdentity = identity
        self.caller_cas: Sequence[x509.Certificate] = caller_cas


class Renewal:
    """Keeps what is presented fresh."""

    def __init__(
        self,
        presented: Presented,
        control: ControlPlane,
        state: EdgeState,
        *,
        metrics: EdgeMetrics,
        log: FilteringBoundLogger,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._presented = presented
        self._control = control
        self._state = state
        self._metrics = metrics
        self._log = log
        self._now = now
        self._is_saved = True
        self._show_expiry()

    async def keep(self) -> None:
        """Renew in time, for ever; a failure is said, with the time that is left, and tried again.

        A new certificate that the disk does not take is shown all the same, and only saving it is tried again: control knows
        an edge by its last two.
        """
        waits = Backoff(secrets.SystemRandom().random, base=1.0, cap=600.0)
        while True:
            left = (self._renew_at() - self._now()).total_seconds()
            if left > 0 and self._is_saved:
                await asyncio.sleep(min(left, _LOOK_SECONDS))
                continue
            try:
                if left <= 0:
                    await self._renew()
                await self._save()
                waits.reset()
            except PenstockError as exc:
                wait = waits.next()
                self._log.error(
                    "edge certificate not renewed" if self._is_saved else "edge certificate not saved",
                    reason=exc.public,
                    detail=exc.detail,
                    hint=(
                        "agents and callers refuse this edge once its certificate has expired" if self._is_saved else _UNSAVED
                    )
                    + (f"; {exc.hint}" if exc.hint else ""),
                    expires=self._expires().isoformat(),
                    retry_in=round(wait, 1),
                )
                await asyncio.sleep(wait)

    async def follow(self) -> None:
        """Take over what another worker of this edge renewed, for ever."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            try:
                stored = await asyncio.to_thread(self._state.load_identity)
                if stored is not None and stored.certificate_pem != self._presented.identity.certificate_pem:
                    self._presented.use(replace(stored, caller_ca_pem=self._presented.identity.caller_ca_pem))
                    self._show_expiry()
            except PenstockError as exc:
                self._log.error("edge certificate not taken over", reason=exc.public, detail=exc.detail, hint=exc.hint)

    async def _renew(self) -> None:
        key = certs.make_ec_key()
        identity = self._presented.identity
        answer = await self._control.renew(identity, certs.make_csr(key, edge_server_name(identity.name)))
        certificate = certs.load_certificate(answer.certificate_pem)
        if certificate.public_key() != key.public_key():
            raise IdentityError("the control plane signed another key than this edge's")
        new = replace(
            self._presented.identity,  # as it is by now: the CAs of callers may have changed meanwhile
            certificate_pem=answer.certificate_pem,
            edge_ca_pem=answer.edge_ca_pem,
            key_pem=certs.key_to_pem(key),
        )
        self._presented.use(new)
        self._is_saved = False
        self._show_expiry()

    async def _save(self) -> None:
        await asyncio.to_thread(self._state.save_identity, self._presented.identity)
        self._is_saved = True
        self._log.info("edge certificate renewed", expires=self._expires().isoformat())

    def _expires(self) -> datetime:
        return certs.load_certificate(self._presented.identity.certificate_pem).not_valid_after_utc

    def _renew_at(self) -> datetime:
        certificate = certs.load_certificate(self._presented.identity.certificate_pem)
        end = certificate.not_valid_after_utc
        life = max(end - certificate.not_valid_before_utc - certs.CLOCK_SKEW, timedelta())  # it was dated back by that
        return end - life * _RENEW_LEFT

    def _show_expiry(self) -> None:
        self._metrics.certificate_expiry.set(self._expires().timestamp())
