"""The control plane as an edge asks it: one set of connections, and of each answer what it means for the edge.

What answers may be something else: another service at a wrong `control_url`, the page of a balancer between. That is said so,
and is no word of control's: no credential is taken for refused by it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import httpx2
from pydantic import ValidationError

from penstock.config.files import named_by
from penstock.errors import IdentityError, UnavailableError
from penstock.schema.edges import EdgeCertificate, EdgeEnrolment, EdgeEnrolmentRequest
from penstock.schema.errors import ErrorEnvelope
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.edge.config import EdgeConfig
    from penstock.edge.state import EdgeIdentity
    from penstock.secret import Secret

_ANSWER: Final = 10.0  # seconds for anything but the wait for news
_MAX_BODY: Final = 256 * 1024 * 1024  # as in `state`
_MAX_DELTA: Final = 64 * 1024 * 1024  # a quarter of that: control sends the whole instead of more
_FEED: Final = "penstock-feed"
_SIGNATURE: Final = "penstock-signature"
_FRESH: Final = "penstock-fresh"


class UnknownEdgeError(IdentityError):
    """Control refuses this edge's credential: it was revoked, or another edge enrolled under its name."""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer of the feed. body: a snapshot's or a delta's bytes; None for the word that nothing is newer.

    signature: over `body`. fresh: that it is an answer of now. Neither is checked yet.
    """

    body: bytes | None
    signature: bytes
    fresh: bytes
    is_delta: bool


class ControlPlane:
    """One edge's way to it."""

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        with named_by("control_ca_file"):
            context = contexts.control_client(config.control_ca_file)
        self.client = httpx2.AsyncClient(
            base_url=config.control_url,
            verify=context,
            timeout=_ANSWER,
            trust_env=False,  # the control plane is ours: a company's proxy variables are not for it
        )

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self.client.aclose()

    async def enrol(self, request: EdgeEnrolmentRequest, token: Secret) -> EdgeEnrolment:
        """A new identity. UnavailableError where another try may find it given, IdentityError where control refuses."""
        response = await self._post("/penstock/v1/edges/enrol", request.model_dump(mode="json"), token)
        if response.status_code in {200, 201}:
            try:
                return EdgeEnrolment.model_validate_json(response.content)
            except ValidationError as exc:
                raise self._another(response) from exc
        if response.status_code >= 500 or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            raise UnavailableError("the control plane is busy", detail=f"status {response.status_code}")
        said = _sentence(response.content)
        if said is None:
            raise self._another(response)
        if response.status_code == HTTPStatus.CONFLICT:  # by an edge that lives; by this one's last run until its lease is over
            raise UnavailableError(
                f"the name {request.name!r} is taken: {said}",
                detail="status 409",
                hint="set name to one that no other edge has; a name is free again some seconds after its edge stopped",
            )
        raise IdentityError(
            f"the control plane refused to enrol this edge: {said}",
            detail=f"status {response.status_code}",
            hint="the enrolment token may be spent, revoked or of another control plane; make a new one there",
        )

    async def renew(self, identity: EdgeIdentity, csr_pem: str) -> EdgeCertificate:
        """The next certificate. UnavailableError while control does not answer, IdentityError when it refuses."""
        response = await self._post("/penstock/v1/edge/certificate", {"csr_pem": csr_pem}, identity.credential)
        if response.status_code != HTTPStatus.OK:
            raise self._refused(response, response.content, "the control plane gives no certificate")
        try:
            return EdgeCertificate.model_validate_json(response.content)
        except ValidationError as exc:
            raise self._another(response) from exc

    async def news(self, identity: EdgeIdentity, asked: Mapping[str, str | int], wait: int) -> Told:
        """One request to the feed, which stays `wait` seconds while there is no news. Raises as `renew` does."""
        try:
            async with self.client.stream(
                "GET",
                "/penstock/v1/edge/snapshot",
                params={**asked, "wait": wait},
                headers=bearer(identity.credential),
                timeout=httpx2.Timeout(_ANSWER, read=wait + _ANSWER),
            ) as response:
                is_delta = response.headers.get(_FEED) == "delta"
                body = await _read_body(response, _MAX_DELTA if is_delta else _MAX_BODY)
                signature, fresh = (_signature(response.headers.get(name, "")) for name in (_SIGNATURE, _FRESH))
        except httpx2.HTTPError as exc:
            raise self._no_answer(exc) from exc
        match response.status_code:
            case HTTPStatus.NO_CONTENT:
                return Told(None, b"", fresh, is_delta=False)
            case HTTPStatus.OK if _SIGNATURE in response.headers:
                return Told(body, signature, fresh, is_delta)
            case _:
                raise self._refused(response, body, "the control plane does not give the feed")

    async def _post(self, path: str, body: object, secret: Secret) -> httpx2.Response:
        try:
            return await self.client.post(path, json=body, headers=bearer(secret))
        except httpx2.HTTPError as exc:
            raise self._no_answer(exc) from exc

    def _no_answer(self, exc: httpx2.HTTPError) -> UnavailableError:
        return UnavailableError(
            f"the control plane at {self._config.control_url} does not answer",
            detail=str(exc) or type(exc).__name__,
            hint="is it running, is control_url right, and does a firewall let this machine reach it?",
        )

    def _refused(self, response: httpx2.Response, body: bytes, public: str) -> UnavailableError | UnknownEdgeError:
        """An answer to the edge's credential that is not the one asked for."""
        if response.status_code >= 500 or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            return UnavailableError(public, detail=f"status {response.status_code}")
        if _sentence(body) is None:
            return self._another(response)
        if response.status_code not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return UnavailableError(public, detail=f"status {response.status_code}")
        folder = self._config.state_dir
        return UnknownEdgeError(
            "the control plane no longer knows this edge",
            hint=f"delete the folder {folder} (state_dir) and start with an enrolment token to enrol again",
        )

    def _another(self, response: httpx2.Response) -> UnavailableError:
        kind = response.headers.get("content-type", "of no content type").partition(";")[0]
        to = response.headers.get("location")
        return UnavailableError(
            f"what answers at {self._config.control_url} is not a Penstock control plane",
            detail=f"status {response.status_code}, {kind}" + (f", which leads to {to}" if to else ""),
            hint="set control_url to the platform API's address (port 8700 by default), and look at proxies in between",
        )


def bearer(secret: Secret) -> dict[str, str]:
    """The header that says who asks."""
    return {"authorization": f"Bearer {secret.reveal()}"}


def _sentence(body: bytes) -> str | None:
    """What control says is wrong; None where something else says it."""
    try:
        return ErrorEnvelope.model_validate_json(body).error.message
    except ValidationError:
        return None


async def _read_body(response: httpx2.Response, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > limit:
            raise UnavailableError("the control plane's answer is too large", detail=f"more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def _signature(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # not base64, or not even ASCII
        return b""  # verifies under no key
