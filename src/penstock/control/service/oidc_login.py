"""Signing people in by the company's identity provider: the authorization code flow with PKCE, redeemed here.

The program at the person's side sends them to the provider and brings back a code; the code is worth nothing without the
verifier it made, and the answer's nonce ties the identity to that one attempt. Users are made by admins: whoever the provider
knows and no admin has added is not let in.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import and_, update

from penstock.config.files import named_by
from penstock.control.errors import ApiError
from penstock.control.federation import assertion, jwks
from penstock.control.federation.denial import Denial
from penstock.control.federation.fetch import Fetch
from penstock.control.federation.urls import Url
from penstock.control.service import sessions
from penstock.control.storage import identities
from penstock.errors import PenstockError, UnavailableError
from penstock.schema.identities import OidcLogin
from penstock.secret import Secret
from penstock.tls.contexts import read_pem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.control.config import Oidc
    from penstock.control.federation.assertion import Verified
    from penstock.control.service.core import Core
    from penstock.schema.identities import OidcCode, Session

_u = identities.users
_LIFETIME_MOST: Final = 86_400
_WELL_KNOWN: Final = "/.well-known/openid-configuration"
_WAITING: Final = 16  # people who wait for the provider's first answer, which is then kept
_SILENT_SECONDS: Final = 2.0  # after which a provider that did not answer is asked again
_SILENT: Final = "the identity provider does not answer"


class _Provider(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class _Tokens(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    id_token: str


@final
class OidcSignIn:
    """One provider, as configured."""

    def __init__(self, core: Core, settings: Oidc) -> None:
        self._core = core
        self._settings = settings
        issuer = Url.parse(settings.issuer_url)
        # The operator chose it: it may be private. What it points to may be only if it is on the list as well, or beside it.
        allowed = (*core.config.federation.allowed_hosts, f"{issuer.host}:{issuer.port}")
        self._fetch = Fetch(core.config.federation.model_copy(update={"allowed_hosts": allowed}))
        self._found: _Provider | None = None
        self._asking = asyncio.Lock()
        self._waiting = 0
        self._silent_until = 0.0

    async def method(self) -> OidcLogin:
        """What a program has to know to send a person there."""
        provider = await self._provider()
        settings = self._settings
        return OidcLogin(
            authorization_endpoint=provider.authorization_endpoint, client_id=settings.client_id, scope=settings.scope
        )

    async def sign_in(self, code: OidcCode) -> Session:
        """A session for whoever the provider says it is. Raises ApiError."""
        try:
            verified = await self._redeem(code)
        except Denial as denial:
            raise ApiError("authentication_error", "sign-in failed", detail=f"{denial.reason}: {denial.detail}") from None
        core, subject = self._core, verified.subject
        email = _email(verified.claims)
        by_subject = and_(_u.c.oidc_issuer == self._settings.issuer_url, _u.c.oidc_subject == subject)
        by_email = and_(_u.c.email == email, _u.c.oidc_subject.is_(None)) if email else None
        async with core.database.write() as connection:
            person = await sessions.find_person(connection, by_subject)
            if person is None and by_email is not None:
                # The first time: the provider vouches for the address, from now on its own id for the person counts.
                person = await sessions.find_person(connection, by_email)
                if person is not None:
                    bound = {"oidc_issuer": self._settings.issuer_url, "oidc_subject": subject}
                    await connection.execute(update(_u).where(_u.c.id == person["id"]).values(bound))
        if person is None:
            raise ApiError(
                "authentication_error",
                "sign-in failed",
                detail=f"no user for subject {subject[:200]} with verified address {email}",
                hint="ask an admin to add your address; the identity provider must say that it is verified",
            )
        return await sessions.open_session(core, person["id"], "oidc")

    async def _redeem(self, code: OidcCode) -> Verified:
        provider, settings = await self._provider(), self._settings
        form = {
            "grant_type": "authorization_code",
            "code": code.code,
            "redirect_uri": code.redirect_uri,
            "code_verifier": code.code_verifier,
            "client_id": settings.client_id,
        }
        try:
            answer = await self._get(provider.token_endpoint, form)
            unverified = assertion.read(_Tokens.model_validate_json(answer).id_token)
            keys = jwks.parse(await self._get(provider.jwks_uri))
        except (PenstockError, ValueError) as exc:
            detail = exc.public if isinstance(exc, PenstockError) else str(exc)
            raise ApiError("authentication_error", "sign-in failed", detail=detail) from exc
        key = jwks.find(keys, unverified.kid)
        if key is None:
            raise Denial("key_not_found")
        if unverified.issuer != settings.issuer_url:
            raise Denial("issuer_mismatch", unverified.issuer[:200])
        verified = assertion.verify(unverified, key, now=self._core.now(), lifetime_most=_LIFETIME_MOST)
        _check_addressee(verified, settings.client_id, code.nonce)
        return verified

    async def _provider(self) -> _Provider:
        # Strangers may ask this: where the provider hangs they must not take all places of the API by waiting for it.
        if self._found is None and self._waiting >= _WAITING:
            raise ApiError("overloaded_error", _SILENT)
        self._waiting += 1
        try:
            async with self._asking:
                if self._found is None:
                    self._found = await self._discover()
                return self._found
        finally:
            self._waiting -= 1

    async def _discover(self) -> _Provider:
        if time.monotonic() < self._silent_until:
            raise ApiError("overloaded_error", _SILENT)
        issuer = self._settings.issuer_url
        try:
            document = await self._fetch.get(Url.parse(issuer).below(_WELL_KNOWN), self._ca())
            found = _Provider.model_validate(json.loads(document))
        except (UnavailableError, ValueError) as exc:
            self._silent_until = time.monotonic() + _SILENT_SECONDS
            detail = str(exc) if not isinstance(exc, ValidationError) else f"{exc.error_count()} wrong fields"
            raise ApiError("overloaded_error", _SILENT, detail=detail) from exc
        if found.issuer != issuer:
            raise ApiError("api_error", "the identity provider is another one", detail=f"it calls itself {found.issuer}")
        return found

    async def _get(self, url: str, form: Mapping[str, str] | None = None) -> bytes:
        if form is None:
            return await self._fetch.get(Url.parse(url), self._ca())
        headers = {"content-type": "application/x-www-form-urlencoded"}
        if self._settings.client_secret is not None:
            secret = self._settings.client_secret
            pair = f"{quote(self._settings.client_id, safe='')}:{quote(secret.reveal(), safe='')}"
            headers["authorization"] = _basic(Secret(pair)).reveal()
        return await self._fetch.get(Url.parse(url), self._ca(), form=urlencode(form).encode(), headers=headers)

    def _ca(self) -> str | None:
        if self._settings.ca_file is None:
            return None
        with named_by("oidc.ca_file"):
            return read_pem(self._settings.ca_file)


def _check_addressee(verified: Verified, client_id: str, nonce: str) -> None:
    if client_id not in verified.audience:
        raise Denial("audience_mismatch", "the id token is for another client")
    if len(verified.audience) > 1 and verified.claims.get("azp") != client_id:
        raise Denial("audience_mismatch", "the id token was given to another client")
    given: Any = verified.claims.get("nonce")
    if not isinstance(given, str) or Secret(given) != Secret(nonce) or not nonce:
        raise Denial("assertion_malformed", "the nonce is another one")


def _email(claims: Mapping[str, Any]) -> str | None:
    # An address that the provider did not verify may be anybody's.
    email: Any = claims.get("email")
    return email.strip().lower() if isinstance(email, str) and claims.get("email_verified") is True else None


def _basic(pair: Secret) -> Secret:
    return Secret(f"Basic {b64encode(pair.reveal().encode()).decode()}")
