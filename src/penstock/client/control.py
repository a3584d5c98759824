"""A client of the control plane's API: one method a call, and one clear error a failure.

What can go wrong has few faces: it does not answer (UnavailableError), it does not accept the key (IdentityError), or what
was asked makes no sense to it (ConfigError). Each says what to do next; none ever shows the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import httpx2
from pydantic import BaseModel, RootModel, ValidationError

from penstock.client.reach import check_url, is_loopback, no_answer
from penstock.errors import ConfigError, IdentityError, PenstockError, TunnelError, TunnelErrorCode, UnavailableError
from penstock.schema.callers import CallerCa, CallerCertificate, Resolution
from penstock.schema.errors import ErrorEnvelope
from penstock.schema.identities import Me, SignedOut
from penstock.schema.links import Link, LinkPage
from penstock.schema.tunnels import Tunnel, TunnelCertificate, TunnelCertificatePage, TunnelPage, TunnelToken
from penstock.secret import Secret
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from pathlib import Path

_M = TypeVar("_M", bound=BaseModel)

_SECONDS: Final = 15.0  # an answer takes milliseconds; the rest is networks
_PAGE: Final = 1000


_TUNNELS_KEY: Final = "pst-tunnels-"
_WRONG_KIND: Final = (
    "a Tunnels API key manages tunnels and makes no calls: use an API key (pst-key-…) of the tunnel's workspace"
)


class Edition(Enum):
    """A published version of the Tunnels API: the same tunnels under another path, beta and scope."""

    LAUNCH = ("/v1/organizations/tunnels", "mcp-tunnels-2026-05-19")
    CURRENT = ("/v1/tunnels", "mcp-tunnels-2026-06-22")

    def __init__(self, path: str, beta: str) -> None:
        self.path = path
        self.beta = beta

    @property
    def creates(self) -> bool:
        """Whether tunnels are made by the API; at launch the console alone made them."""
        return self is Edition.CURRENT


class ControlClient:
    """Speaks to one control plane with one credential. Close it with `aclose`, or use it as a context.

    `api_key` may be any bearer of that control plane; `credential` is what to call it when it is refused, and `refused_hint`
    what to do then. `workspace_id`: where a person's session acts, if not in the default workspace.
    """

    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        *,
        ca_file: Path | None = None,
        timeout: float = _SECONDS,
        edition: Edition = Edition.CURRENT,
        credential: str = "API key",
        refused_hint: str | None = None,
        workspace_id: str | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._credential = credential
        self._refused_hint = refused_hint
        self._is_managing = api_key.reveal().startswith(_TUNNELS_KEY)
        self.edition: Final = edition
        self._tunnels = edition.path
        self._published = {"anthropic-version": "2023-06-01", "anthropic-beta": edition.beta}
        self._headers = {"authorization": f"Bearer {api_key.reveal()}"}
        check_url(self.base_url)
        _check_key(api_key)
        if workspace_id is not None:
            self._headers["anthropic-workspace-id"] = segment(workspace_id)
        self._http = httpx2.AsyncClient(
            base_url=self.base_url,
            verify=contexts.control_client(ca_file) if self.base_url.startswith("https:") else contexts.unused_client(),
            timeout=timeout,
            # A company's proxy variables hold for platforms elsewhere, not for this machine: it would get the key.
            trust_env=not is_loopback(self.base_url),
            follow_redirects=False,  # a redirect would carry the key to wherever it points
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # --- tunnels ----------------------------------------------------------------------------------------------------

    async def create_tunnel(self, display_name: str | None = None) -> Tunnel:
        """A new tunnel in the key's workspace."""
        body = {} if display_name is None else {"display_name": display_name}
        return await self._call(Tunnel, "POST", self._tunnels, json=body)

    async def tunnel(self, tunnel_id: str) -> Tunnel:
        """One tunnel; ConfigError when the key's workspace has none of this id."""
        return await self._call(Tunnel, "GET", f"{self._tunnels}/{segment(tunnel_id)}")

    async def tunnels(self, *, include_archived: bool = False) -> AsyncIterator[Tunnel]:
        """All tunnels of the key's workspace, newest first."""
        page: str | None = None
        while True:
            query = {"limit": _PAGE, "include_archived": include_archived, **({"page": page} if page else {})}
            found = await self._call(TunnelPage, "GET", self._tunnels, params=query)
            for tunnel in found.data:
                yield tunnel
            page = found.next_page
            if not page:
                return

    async def archive_tunnel(self, tunnel_id: str) -> Tunnel:
        """Retire a tunnel for ever."""
        return await self._call(Tunnel, "POST", f"{self._tunnels}/{segment(tunnel_id)}/archive")

    async def reveal_token(self, tunnel_id: str) -> AgentToken:
        """The token an agent of this tunnel needs."""
        path = f"{self._tunnels}/{segment(tunnel_id)}/reveal_token"
        return AgentToken.of(await self._call(TunnelToken, "POST", path))

    async def rotate_token(self, tunnel_id: str, reason: str | None = None) -> AgentToken:
        """A fresh token: the old one opens no new link from now on, the links it opened stay."""
        path = f"{self._tunnels}/{segment(tunnel_id)}/rotate_token"
        body = {} if reason is None else {"reason": reason}
        return AgentToken.of(await self._call(TunnelToken, "POST", path, json=body))

    async def register_certificate(self, tunnel_id: str, ca_certificate_pem: str) -> TunnelCertificate:
        """Register a CA; ConfigError names the rule it breaks."""
        path = f"{self._tunnels}/{segment(tunnel_id)}/certificates"
        return await self._call(TunnelCertificate, "POST", path, json={"ca_certificate_pem": ca_certificate_pem})

    async def certificates(self, tunnel_id: str) -> tuple[TunnelCertificate, ...]:
        """The active CA certificates of a tunnel: two at most, unless the platform was set otherwise."""
        path = f"{self._tunnels}/{segment(tunnel_id)}/certificates"
        return (await self._call(TunnelCertificatePage, "GET", path, params={"limit": _PAGE})).data

    async def archive_certificate(self, tunnel_id: str, certificate_id: str) -> TunnelCertificate:
        """Trust a CA no longer: its slot is free again."""
        path = f"{self._tunnels}/{segment(tunnel_id)}/certificates/{segment(certificate_id)}/archive"
        return await self._call(TunnelCertificate, "POST", path)

    async def links(self, tunnel_id: str | None = None) -> AsyncIterator[Link]:
        """Live links of one tunnel, or of all in the key's workspace, newest first."""
        page: str | None = None
        while True:
            asked = {"tunnel_id": tunnel_id, "page": page}
            query = {"limit": _PAGE, **{name: value for name, value in asked.items() if value is not None}}
            found = await self._call(LinkPage, "GET", "/penstock/v1/links", params=query)
            for link in found.data:
                yield link
            page = found.next_page
            if not page:
                return

    # --- callers ----------------------------------------------------------------------------------------------------

    async def caller_certificate(self, csr_pem: str) -> CallerCertificate:
        """A client certificate for the key behind a certificate request."""
        return await self._call(CallerCertificate, "POST", "/penstock/v1/callers/certificates", json={"csr_pem": csr_pem})

    async def me(self) -> Me:
        """Whose credential this client has."""
        return await self._call(Me, "GET", "/penstock/v1/me")

    async def sign_out(self) -> None:
        """End the session this client has for a credential."""
        await self._call(SignedOut, "POST", "/penstock/v1/logout")

    async def caller_ca(self) -> str:
        """PEM of the CA that signs callers: what a proxy's `callers.ca_file` holds."""
        return (await self._call(CallerCa, "GET", "/penstock/v1/callers/ca")).caller_ca_pem

    async def resolve(self, host: str) -> Resolution:
        """How to reach the tunnel of `host`. TunnelError when there is none, or none that could be trusted."""
        try:
            resolution = await self._call(Resolution, "GET", "/penstock/v1/tunnels/resolve", params={"host": host})
        except NotFoundError as exc:
            raise TunnelError(
                TunnelErrorCode.TUNNEL_NOT_FOUND, f"no tunnel of this API key's workspace serves {host}", hint=exc.hint
            ) from exc
        if not resolution.trust_anchors:
            raise TunnelError(
                TunnelErrorCode.CERTIFICATE_MISSING,
                f"the tunnel of {host} has no CA certificate",
                hint="register one: without it nobody could tell the proxy from an impostor",
            )
        return resolution

    # --- any call ---------------------------------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, *, json: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The JSON object that the API answers to any request. `segment` makes an id fit for a path."""
        response = await self._send(method, path, json, params)
        return self._read(_AnyObject, response).root if response.content else {}

    async def lines(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[str]:
        """The lines of an answer that may be longer than memory."""
        try:
            async with self._http.stream("GET", path, params=params, headers=self._headers) as response:
                if not response.is_success:
                    await response.aread()
                    raise self._refusal(response)
                async for line in response.aiter_lines():
                    yield line
        except httpx2.HTTPError as exc:
            raise no_answer(self.base_url, exc) from exc

    async def _call(
        self,
        model: type[_M],
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> _M:
        return self._read(model, await self._send(method, path, json, params))

    async def _send(
        self, method: str, path: str, json: Mapping[str, Any] | None, params: Mapping[str, Any] | None
    ) -> httpx2.Response:
        headers = self._headers | (self._published if path.startswith("/v1/") else {})
        try:
            response = await self._http.request(method, path, json=json, params=params, headers=headers)
        except httpx2.HTTPError as exc:
            raise no_answer(self.base_url, exc) from exc
        if not response.is_success:
            raise self._refusal(response)
        return response

    def _read(self, model: type[_M], response: httpx2.Response) -> _M:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as exc:
            raise UnavailableError(
                f"{self.base_url} does not answer like a control plane",
                detail=f"{exc.error_count()} wrong fields in {model.__name__.strip('_')}",
                hint="check the API URL",
            ) from None

    def _refusal(self, response: httpx2.Response) -> PenstockError:
        status = response.status_code
        try:
            envelope = ErrorEnvelope.model_validate_json(response.content)
        except ValidationError:
            # Not ours: a proxy's page, another service, a redirect.
            kind = NotAPlatformError if status == 404 else UnavailableError
            return kind(
                f"{self.base_url} answered {status}, and not as a control plane",
                detail=response.text[:300],
                hint="check the API URL; something else may answer there",
            )
        message, detail = envelope.error.message, f"status {status}, request {envelope.request_id}"
        if status == 401:
            return IdentityError(
                f"the {self._credential} is not accepted: {message}",
                detail=detail,
                hint=self._refused_hint or "use a key of this control plane that is not revoked",
            )
        if status == 403:
            return IdentityError(
                f"the {self._credential} may not do this: {message}",
                detail=detail,
                hint=self._refused_hint or (_WRONG_KIND if self._is_managing else "use a key of the right workspace"),
            )
        if status == 404:
            return NotFoundError(message, detail=detail, hint="check the name, and that the API key is of the same workspace")
        if status in {408, 429} or status >= 500:
            return UnavailableError(
                f"the control plane cannot serve this now: {message}", detail=detail, hint="try again shortly"
            )
        return ConfigError(message, detail=detail)


@dataclass(frozen=True, slots=True)
class AgentToken:
    """A tunnel's token; `id` changes with the value."""

    id: str
    value: Secret

    @classmethod
    def of(cls, told: TunnelToken) -> AgentToken:
        """From the API's object."""
        return cls(told.id, Secret(told.tunnel_token))


class _AnyObject(RootModel[dict[str, Any]]):
    """An answer that is printed as it came."""


class NotFoundError(ConfigError):
    """404: a name that this key's workspace does not have."""


class NotAPlatformError(UnavailableError):
    """404, and not in a platform's words: another service, or a platform that knows nothing of what was asked."""


def _check_key(api_key: Secret) -> None:
    # A line break would end the header and begin another.
    if not api_key or not api_key.reveal().isascii() or not api_key.reveal().isprintable():
        raise ConfigError(
            "the API key is empty or holds characters that no key has", hint="copy it again; it begins with pst-key-"
        )


def segment(text: str) -> str:
    """An id as one segment of a path; anything else would ask for another resource. Raises ConfigError."""
    if not text or not text.isascii() or not all(character.isalnum() or character in "_-" for character in text):
        raise ConfigError(f"{text!r:.100} is not an id", hint="it looks like tnl_01Hx9Kp2RtQvMn3sWbYdLcF8")
    return text
