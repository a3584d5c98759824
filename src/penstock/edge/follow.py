"""The edge's side of the control plane: it enrols once, then follows the feed for as long as it lives.

The control plane away means only that nothing new is learned: what is held goes on deciding until `stale_limit`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import secrets
import time
from typing import TYPE_CHECKING, Final

import httpx2
from pydantic import ValidationError

from penstock.edge.feed import check_fresh
from penstock.edge.kept import Kept
from penstock.edge.reports import ControlReporter, bearer
from penstock.edge.state import EdgeIdentity, EdgeState, StoredPage, identity_of
from penstock.errors import ConfigError, IdentityError, PenstockError, UnavailableError
from penstock.net.backoff import Backoff
from penstock.schema.edges import EdgeCertificate, EdgeEnrolment, EdgeEnrolmentRequest
from penstock.schema.errors import ErrorEnvelope
from penstock.secret import Secret
from penstock.tls import certs, contexts
from penstock.tls.names import edge_server_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from penstock.config.types import HostPort
    from penstock.edge.config import EdgeConfig
    from penstock.edge.feed import Feed

_WAIT: Final = 25  # seconds a long poll stays: below the 30 s at which common proxies cut
_ANSWER: Final = 10.0  # seconds for anything but the wait
_UNKNOWN_BASE: Final = 5.0  # seconds; control that no longer knows an edge rarely learns of it again (from a backup)
_UNKNOWN_CAP: Final = 60.0
_SAID_AGAIN: Final = 15.0  # seconds between two lines about a control plane that is not there yet
_FIRST_PULL: Final = 5.0  # seconds a restart waits for news before it goes on with what is on disk
_MAX_BODY: Final = 256 * 1024 * 1024  # as in `state`
_MAX_DELTA: Final = 64 * 1024 * 1024  # a quarter of that: control sends the whole instead of more
_ANY: Final = -1  # older than every version
_FEED: Final = "penstock-feed"
_SIGNATURE: Final = "penstock-signature"
_FRESH: Final = "penstock-fresh"


class UnknownEdgeError(IdentityError):
    """Control refuses this edge's credential: it was revoked, or another edge enrolled under its name."""


class Follower:
    """Keeps one feed fed.

    What changed comes as a delta. Where one cannot be taken the whole is asked for, and so it is when those on disk have become
    many, or a restart would read them for long.
    """

    def __init__(
        self,
        config: EdgeConfig,
        state: EdgeState,
        feed: Feed,
        log: FilteringBoundLogger,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._config = config
        self._state = state
        self._feed = feed
        self._log = log
        self._kept = Kept(state, log, writes=not config.worker)
        self._is_whole_wanted = False
        self.is_unknown = False
        """Control answers, and refuses this edge's credential."""
        self._is_doubted = False
        self._poll: asyncio.Timeout | None = None
        self._client = httpx2.AsyncClient(
            base_url=config.control_url,
            verify=contexts.control_client(config.control_ca_file),
            timeout=_ANSWER,
            trust_env=False,  # the control plane is ours: a company's proxy variables are not for it
        )

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    def reporter(self, identity: EdgeIdentity) -> ControlReporter:
        """How this edge reports its presence."""
        return ControlReporter(self._client, identity)

    # --- starting ---------------------------------------------------------------------------------------------------

    async def identify(self, callers: HostPort, agents: HostPort) -> EdgeIdentity:
        """The identity on disk, or a new one: enrolled under the addresses that peers will dial. One that moved enrols anew."""
        await asyncio.to_thread(self._state.prepare)
        identity = await asyncio.to_thread(self._state.load_identity)
        addresses = f"callers {callers}, agents {agents}"
        known = await asyncio.to_thread(self._state.load_addresses)
        if identity is not None and known is not None and known != addresses:
            self._log.info("edge moved: it enrols anew", was=known, now=addresses)
            if self._config.enrolment_token_file is None:
                raise ConfigError(
                    "this edge has moved since it enrolled, and has no enrolment token",
                    detail=f"was {known}; now {addresses}",
                    hint="set enrolment_token_file to enrol it anew, or advertise the addresses it had",
                )
            identity = None
        if identity is None:
            identity = await self._enrol(callers, agents)
            known = None
        if known is None:
            await asyncio.to_thread(self._state.save_addresses, addresses)
        return identity

    async def catch_up(self, identity: EdgeIdentity) -> None:
        """What is on disk, then what is new if control answers soon; without either the edge starts, and is not ready."""
        self._feed.floor = await asyncio.to_thread(self._state.load_version)
        stored = await asyncio.to_thread(self._state.load_snapshot)
        if stored is not None:
            try:
                self._feed.restore(identity.feed_key, stored, await asyncio.to_thread(self._state.load_deltas))
            except IdentityError as exc:
                self._log.warning("stored snapshot dropped", reason=exc.public, detail=exc.detail)
        try:
            async with asyncio.timeout(_FIRST_PULL):
                await self._pull(identity, wait=0)
        except (TimeoutError, PenstockError) as exc:
            self._log.warning("control plane does not answer", reason=_public(exc), version=self._feed.version)

    async def _enrol(self, callers: HostPort, agents: HostPort) -> EdgeIdentity:
        token = await asyncio.to_thread(_read_token, self._config)
        key = certs.make_ec_key()
        key_pem = certs.key_to_pem(key)
        request = EdgeEnrolmentRequest(
            name=self._config.name,
            caller_address=str(callers),
            agent_address=str(agents),
            csr_pem=certs.make_csr(key, edge_server_name(self._config.name)),
        )
        enrolment = await self._post_until_answered(request, token)
        try:
            identity = identity_of(enrolment, key_pem)
        except (ValueError, binascii.Error):
            raise UnavailableError("the control plane's answer to the enrolment cannot be read") from None
        await asyncio.to_thread(self._state.save_identity, identity)
        self._log.info("edge enrolled", edge=identity.edge_id, name=self._config.name)
        return identity

    async def _post_until_answered(self, request: EdgeEnrolmentRequest, token: Secret) -> EdgeEnrolment:
        """Control may start after the edge does; a refusal is final, silence is not, for `start_timeout`."""
        waits = Backoff(secrets.SystemRandom().random, base=0.2, cap=5.0)
        loop = asyncio.get_running_loop()
        said = -_SAID_AGAIN
        last: UnavailableError | None = None
        try:
            async with asyncio.timeout(self._config.start_timeout):
                while True:
                    try:
                        return await self._post(request, token)
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
                hint=(last.hint if last else None) or "check control_url, and that control runs",
            ) from None

    async def _post(self, request: EdgeEnrolmentRequest, token: Secret) -> EdgeEnrolment:
        try:
            response = await self._client.post(
                "/penstock/v1/edges/enrol", json=request.model_dump(mode="json"), headers=bearer(token)
            )
        except httpx2.HTTPError as exc:
            raise self._no_answer(exc) from exc
        if response.status_code >= 500 or response.status_code == 429:
            raise UnavailableError("the control plane is busy", detail=f"status {response.status_code}")
        if response.status_code == 409:  # by an edge that lives; by this one's last run only until its lease is over
            raise UnavailableError(
                f"the name {request.name!r} is taken: {_sentence(response)}",
                detail="status 409",
                hint="set name to one that no other edge has; a name is free again some seconds after its edge stopped",
            )
        if response.status_code not in {200, 201}:
            raise IdentityError(
                f"the control plane refused to enrol this edge: {_sentence(response)}",
                detail=f"status {response.status_code}",
                hint="the enrolment token may be spent, revoked or of another control plane; make a new one there",
            )
        try:
            return EdgeEnrolment.model_validate_json(response.content)
        except ValidationError as exc:
            raise UnavailableError("the control plane's answer to the enrolment cannot be read") from exc

    # --- renewing ---------------------------------------------------------------------------------------------------

    async def renewed(self, identity: EdgeIdentity, csr_pem: str) -> EdgeCertificate:
        """The next certificate. UnavailableError while control does not answer, IdentityError when it refuses."""
        try:
            response = await self._client.post(
                "/penstock/v1/edge/certificate", json={"csr_pem": csr_pem}, headers=bearer(identity.credential)
            )
        except httpx2.HTTPError as exc:
            raise self._no_answer(exc) from exc
        if response.status_code in {401, 403}:
            raise self._unknown()
        if response.status_code != 200:
            raise UnavailableError("the control plane gives no certificate", detail=f"status {response.status_code}")
        try:
            return EdgeCertificate.model_validate_json(response.content)
        except ValidationError as exc:
            raise UnavailableError("the control plane's answer to the renewal cannot be read") from exc

    def _no_answer(self, exc: httpx2.HTTPError) -> UnavailableError:
        return UnavailableError(
            f"the control plane at {self._config.control_url} does not answer",
            detail=str(exc) or type(exc).__name__,
            hint="is it running, is control_url right, and does a firewall let this machine reach it?",
        )

    def _unknown(self) -> UnknownEdgeError:
        return UnknownEdgeError(
            "the control plane no longer knows this edge",
            hint=f"delete the folder {self._config.state_dir} (state_dir) and start with an enrolment token to enrol again",
        )

    # --- following --------------------------------------------------------------------------------------------------

    async def follow(self, identity: EdgeIdentity) -> None:
        """Long polls, one after the other, for ever."""
        random = secrets.SystemRandom().random
        away = Backoff(random, base=0.2, cap=2.0)  # 5 s is what a revocation may take
        unknown = Backoff(random, base=_UNKNOWN_BASE, cap=_UNKNOWN_CAP, floor=1.0)
        while True:
            try:
                await self._next(identity)
                self.is_unknown = False
                away.reset()
                unknown.reset()
            except PenstockError as exc:
                self._feed.is_interrupted = True
                self.is_unknown = isinstance(exc, UnknownEdgeError)
                waits = unknown if self.is_unknown else away
                self._is_doubted = False
                self._log.warning("feed interrupted", reason=exc.public, detail=exc.detail, hint=exc.hint)
                await asyncio.sleep(waits.next())
            except Exception:
                self._feed.is_interrupted = True
                raise  # to who began this, which begins it again

    def doubt(self) -> None:
        """Control does not answer on another connection: what a poll waits on may be dead, too, and is tried anew.

        Once; a doubt that proved wrong is not raised again before a poll has run its time.
        """
        if self._poll is not None and not self._is_doubted:
            self._is_doubted = self._feed.is_interrupted = True
            self._poll.reschedule(asyncio.get_running_loop().time())

    async def _next(self, identity: EdgeIdentity) -> None:
        """One poll: a long one, or while the feed is interrupted a short one, which says at once whether it still is."""
        if self._feed.is_interrupted:
            await self._pull(identity, wait=0)
            return
        try:
            async with asyncio.timeout(None) as self._poll:
                await self._pull(identity, wait=math.ceil(min(_WAIT, self._kept.due_in)))
            self._is_doubted = False
        except TimeoutError:
            return  # in doubt
        finally:
            self._poll = None

    def _asked(self) -> dict[str, str | int]:
        """What is asked for: all there is, what is newer than what is held, or of that only what changed."""
        if self._kept.due_in <= 0:
            return {"after": _ANY}
        directory = self._feed.directory
        asked: dict[str, str | int] = {"after": directory.version}
        if directory.mark and not self._is_whole_wanted and not self._kept.is_long:
            asked["delta"] = directory.mark
        return asked

    async def _pull(self, identity: EdgeIdentity, *, wait: int) -> None:
        """One request: what is newer than what is held, or the word that nothing is."""
        nonce = secrets.token_hex(16)
        held = self._feed.version
        asked = self._asked()
        self._is_whole_wanted = True  # unless this brings what is asked for
        try:
            async with self._client.stream(
                "GET",
                "/penstock/v1/edge/snapshot",
                params={**asked, "wait": wait, "nonce": nonce},
                headers=bearer(identity.credential),
                timeout=httpx2.Timeout(_ANSWER, read=wait + _ANSWER),
            ) as response:
                is_delta = response.headers.get(_FEED) == "delta"
                body = await _read_body(response, _MAX_DELTA if is_delta else _MAX_BODY)
        except httpx2.HTTPError as exc:
            raise self._no_answer(exc) from exc
        self._poll = None  # what was brought is also kept, whole
        now = self._clock()
        fresh = _signature(response.headers.get(_FRESH, ""))

        def is_current(version: int) -> None:
            check_fresh(identity.feed_key, fresh, version, nonce)

        match response.status_code:
            case 204 if asked["after"] == held:
                is_current(held)
                self._feed.confirm(now)
                await self._kept.confirm(now)
            case 200:
                page = StoredPage(body, _signature(response.headers.get(_SIGNATURE, "")), now)
                if is_delta:
                    self._feed.accept_delta(identity.feed_key, page, is_current)
                else:
                    self._feed.accept(identity.feed_key, page, is_current)
                if self._feed.version != held:
                    self._log.info("feed advanced", version=self._feed.version)
                await (self._kept.delta if is_delta else self._kept.whole)(page, self._feed.version)
            case 401 | 403:
                raise self._unknown()
            case status:
                raise UnavailableError("the control plane does not give the feed", detail=f"status {status}")
        self._is_whole_wanted = self._feed.is_interrupted = False


def _sentence(response: httpx2.Response) -> str:
    """What control says is wrong, or the beginning of what something else says."""
    try:
        return ErrorEnvelope.model_validate_json(response.content).error.message
    except ValidationError:
        return response.text[:200]


async def _read_body(response: httpx2.Response, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > limit:
            raise UnavailableError("the control plane's answer is too large")
        parts.append(part)
    return b"".join(parts)


def _read_token(config: EdgeConfig) -> Secret:
    file = config.enrolment_token_file
    if file is None:
        raise ConfigError(
            "this edge has no identity yet and no enrolment token",
            hint="set enrolment_token_file to a file with a token made by the control plane",
        )
    return Secret(contexts.read_pem(file).strip())


def _signature(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # not base64, or not even ASCII
        return b""  # verifies under no key


def _public(exc: BaseException) -> str:
    return exc.public if isinstance(exc, PenstockError) else "timed out"
