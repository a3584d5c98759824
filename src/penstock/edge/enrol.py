"""Who this edge is: the identity on disk, or on a first start the one that control gives for an enrolment token."""

from __future__ import annotations

import asyncio
import binascii
import secrets
from socket import gethostname
from typing import TYPE_CHECKING, Final

from penstock.config.files import named_by, read_text
from penstock.edge.state import identity_of
from penstock.errors import ConfigError, UnavailableError
from penstock.net.backoff import Backoff
from penstock.schema.edges import EdgeEnrolmentRequest
from penstock.secret import Secret
from penstock.tls import certs
from penstock.tls.names import edge_server_name, is_edge_name

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from penstock.config.types import HostPort
    from penstock.edge.config import EdgeConfig
    from penstock.edge.control import ControlPlane
    from penstock.edge.state import EdgeIdentity, EdgeState
    from penstock.schema.edges import EdgeEnrolment

_SAID_AGAIN: Final = 15.0  # seconds between two lines about a control plane that is not there yet


class Enrolment:
    """Of one edge, once in its life, and anew where it has moved."""

    def __init__(self, config: EdgeConfig, state: EdgeState, control: ControlPlane, log: FilteringBoundLogger) -> None:
        self._config = config
        self._state = state
        self._control = control
        self._log = log

    async def identify(self) -> EdgeIdentity:
        """The identity, enrolled under the addresses that peers will dial. ConfigError, IdentityError, UnavailableError."""
        config = self._config
        callers, agents = config.advertise_callers or config.callers_addr, config.advertise_agents or config.agents_addr
        await asyncio.to_thread(self._state.prepare)
        identity = await asyncio.to_thread(self._state.load_identity)
        addresses = f"callers {callers}, agents {agents}"
        known = await asyncio.to_thread(self._state.load_addresses)
        if identity is not None:
            was, now = f"{identity.name}, {known or addresses}", f"{config.name or identity.name}, {addresses}"
            if was != now:
                self._log.info("edge moved: it enrols anew", was=was, now=now)
                if config.enrolment_token_file is None:
                    raise ConfigError(
                        "this edge has moved since it enrolled, and has no enrolment token",
                        detail=f"was {was}; now {now}",
                        hint="set enrolment_token_file to enrol it anew, or set the name and advertise the addresses it had",
                    )
                identity = None
        if identity is None:
            identity = await self._enrol(callers, agents)
            known = None
        if known is None:
            await asyncio.to_thread(self._state.save_addresses, addresses)
        return identity

    async def _enrol(self, callers: HostPort, agents: HostPort) -> EdgeIdentity:
        token = await asyncio.to_thread(self._token)
        name = self._config.name or host_label(gethostname())
        key = certs.make_ec_key()
        key_pem = certs.key_to_pem(key)
        request = EdgeEnrolmentRequest(
            name=name,
            caller_address=str(callers),
            agent_address=str(agents),
            csr_pem=certs.make_csr(key, edge_server_name(name)),
        )
        enrolment = await self._ask_until_answered(request, token)
        try:
            identity = identity_of(enrolment, key_pem)
        except (ValueError, binascii.Error):
            raise UnavailableError("the control plane's answer to the enrolment cannot be read") from None
        await asyncio.to_thread(self._state.save_identity, identity)
        self._log.info("edge enrolled", edge=identity.edge_id, name=name)
        return identity

    async def _ask_until_answered(self, request: EdgeEnrolmentRequest, token: Secret) -> EdgeEnrolment:
        """Control may start after the edge does; a refusal is final, silence is not, for `start_timeout`."""
        waits = Backoff(secrets.SystemRandom().random, base=0.2, cap=5.0)
        loop = asyncio.get_running_loop()
        said = -_SAID_AGAIN
        last: UnavailableError | None = None
        try:
            async with asyncio.timeout(self._config.start_timeout):
                while True:
                    try:
                        return await self._control.enrol(request, token)
                    except UnavailableError as exc:
                        last = exc
                        if loop.time() - said >= _SAID_AGAIN:
                            said = loop.time()
                            self._log.warning("not enrolled yet", reason=exc.public, detail=exc.detail, hint=exc.hint)
                        await asyncio.sleep(waits.next())
        except TimeoutError:
            raise UnavailableError(
                f"the control plane at {self._config.control_url} does not enrol this edge"
                + (f": {last.public}" if last else ""),
                detail=last.detail if last else None,
                hint=(last.hint if last else None) or "check control_url, and that control runs",
            ) from None

    def _token(self) -> Secret:
        file = self._config.enrolment_token_file
        if file is None:
            raise ConfigError(
                "this edge has no identity yet and no enrolment token",
                hint="set enrolment_token_file to a file with a token made by the control plane",
            )
        with named_by("enrolment_token_file"):
            text = read_text(file).strip()
            # As it is in a header: a line's end in it would end that, and be quoted in the error.
            if not text or not text.isascii() or not text.isprintable() or " " in text:
                raise ConfigError(
                    f"{file} is empty" if not text else f"{file} holds no enrolment token",
                    hint="it holds one line, pst-enrol-…; `penstock edges enrol-token create` makes one",
                )
            return Secret(text)


def host_label(host: str) -> str:
    """What an edge is called that nobody gave a name. Raises ConfigError for a host name that gives none."""
    label = host.partition(".")[0].lower().replace("_", "-").strip("-")
    if not is_edge_name(label):
        raise ConfigError(f"this machine's host name, {host!r:.100}, gives no name for an edge", hint="set name, one DNS label")
    return label
