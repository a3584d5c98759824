"""One certificate from an ACME authority (RFC 8555), by HTTP-01. The only place that knows the protocol's library.

The library blocks, so each of its steps runs in a thread, and every wait between them is ours: a stop waits for one request
at most. Its HTTP goes through a TLS context of `tls.contexts`, so the same CAs count as everywhere else.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from acme import challenges, client, crypto_util, errors, messages
from josepy.jwa import ES256
from josepy.jwk import JWKEC
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException, SSLError

from penstock.errors import PenstockError, UnavailableError
from penstock.tls import certs, contexts, names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.control.certificate.folder import AcmeFolder
    from penstock.control.config import Acme
    from penstock.secret import Secret
    from penstock.tls.certs import KeyPair
    from penstock.tls.contexts import TLSContext

REQUEST_SECONDS: Final = 20  # of each read; authorities answer within one
ORDER_SECONDS: Final = 180.0  # in all; an authority that looks from several places takes up to a minute
_POLL: Final = 1.0
_SLOWEST_POLL: Final = 5.0


async def obtain(settings: Acme, wanted: Sequence[str], folder: AcmeFolder) -> KeyPair:
    """A new key and a certificate for the `wanted` names. Raises UnavailableError, which says why and what to do."""
    try:
        async with asyncio.timeout(ORDER_SECONDS):
            return await _obtain(settings, wanted, folder)
    except TimeoutError as exc:
        raise UnavailableError(
            "the ACME authority did not finish in time", hint="it is tried again; look at the authority's status page"
        ) from exc
    except PenstockError:
        raise
    except Exception as exc:  # the library reads what it is sent as what it should be: a wrong shape is any error there is
        if isinstance(exc, OSError) and not isinstance(exc, RequestException):
            raise  # of our own disk
        raise _explained(exc, settings) from exc
    finally:
        await asyncio.to_thread(folder.close_challenges)


async def _obtain(settings: Acme, wanted: Sequence[str], folder: AcmeFolder) -> KeyPair:
    authority = await asyncio.to_thread(_signed_in, settings, folder)
    key_pem = certs.key_to_pem(certs.make_ec_key())
    csr = crypto_util.make_csr(key_pem.reveal().encode(), domains=list(wanted))
    order = await asyncio.to_thread(authority.new_order, csr)
    authorizations = cast("tuple[messages.AuthorizationResource, ...]", order.authorizations)
    for authorization in authorizations:
        if authorization.body.status == messages.STATUS_PENDING:
            await asyncio.to_thread(_answer, authority, authorization, folder)
    for authorization in authorizations:
        await _valid(authority, authorization)
    order = await asyncio.to_thread(authority.begin_finalization, order)
    while True:
        try:
            order = await asyncio.to_thread(authority.poll_finalization, order, _soon())
            break
        except errors.TimeoutError:
            continue
    return _checked(str(order.fullchain_pem), key_pem, wanted)


def _signed_in(settings: Acme, folder: AcmeFolder) -> client.ClientV2:
    key = JWKEC(key=folder.account_key())
    network = client.ClientNetwork(key, alg=ES256, user_agent="penstock", timeout=REQUEST_SECONDS)
    network.session.mount("https://", _Adapter(contexts.control_client(settings.ca_file)))
    authority = client.ClientV2(client.ClientV2.get_directory(settings.directory_url, network), network)
    request = messages.NewRegistration.from_data(
        email=settings.contact,
        terms_of_service_agreed=settings.agree_to_terms,
        external_account_binding=_binding(settings, key, authority),
    )
    try:
        authority.new_account(request)
    except errors.ConflictError as exc:  # how the library says that there is an account of this key
        network.account = messages.RegistrationResource(uri=exc.location, body=messages.Registration())
    return authority


def _binding(settings: Acme, key: JWKEC, authority: client.ClientV2) -> dict[str, Any] | None:
    if (external := settings.external_account) is None:
        return None
    public, secret = key.public_key(), external.hmac_key.reveal()
    return messages.ExternalAccountBinding.from_data(public, external.key_id, secret, authority.directory)


def _answer(authority: client.ClientV2, authorization: messages.AuthorizationResource, folder: AcmeFolder) -> None:
    for challenge in _challenges(authorization):
        if isinstance(challenge.chall, challenges.HTTP01):
            response, answer = challenge.response_and_validation(authority.net.key)
            folder.open_challenge(str(challenge.chall.encode("token")), str(answer))
            authority.answer_challenge(challenge, response)
            return
    msg = f"the authority does not offer http-01 for {authorization.body.identifier.value}"
    raise errors.Error(msg)


async def _valid(authority: client.ClientV2, authorization: messages.AuthorizationResource) -> None:
    wait = _POLL
    while authorization.body.status in {messages.STATUS_PENDING, messages.STATUS_PROCESSING}:
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, _SLOWEST_POLL)
        authorization, _ = await asyncio.to_thread(authority.poll, authorization)
    if authorization.body.status != messages.STATUS_VALID:
        raise errors.ValidationError([authorization])


class _Adapter(HTTPAdapter):
    """requests on a TLS context of ours, whose CAs are the ones that count."""

    def __init__(self, context: TLSContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **settings)  # pyright: ignore[reportUnknownMemberType]

    def cert_verify(self, *_arguments: Any, **_settings: Any) -> None:
        """The bundle that requests brings along would be trusted beside them."""


def _soon() -> datetime:
    return datetime.now() + timedelta(seconds=2)  # noqa: DTZ005 - the library compares with its own naive clock


def _checked(chain_pem: str, key_pem: Secret, wanted: Sequence[str]) -> KeyPair:
    """The pair, if it is what was asked for: an authority's mistake must not replace a certificate that works."""
    leaf = certs.load_bundle(chain_pem)[0]
    if not certs.belong_together(chain_pem, key_pem) or leaf.not_valid_after_utc <= datetime.now(UTC):
        msg = "the authority's certificate is not for our key, or is over"
        raise errors.Error(msg)
    if missing := set(wanted) - names.dns_names(leaf):
        msg = f"the authority's certificate lacks {', '.join(sorted(missing))}"
        raise errors.Error(msg)
    return certs.KeyPair(chain_pem, key_pem)


# --- what went wrong, for who has to mend it --------------------------------------------------------------------------


def _explained(exc: Exception, settings: Acme) -> UnavailableError:
    """What the library raised, in our three texts."""
    detail = " ".join(f"{type(exc).__name__}: {exc}".split())[:1000]
    match exc:
        case errors.ValidationError():
            name = exc.failed_authzrs[0].body.identifier.value
            return UnavailableError(
                f"the ACME authority could not verify {name}",
                detail=_reasons(exc) or detail,
                hint=f"http://{name}/ must lead from the internet to acme.listen_addr: check DNS, port 80 and the firewall",
            )
        case messages.Error():
            return UnavailableError(
                f"the ACME authority refused: {exc.code or exc.typ}", detail=str(exc.detail), hint=_PROBLEMS.get(str(exc.code))
            )
        case SSLError():
            hint = "set acme.ca_file to the CA of the authority's own TLS"
            return UnavailableError("the ACME authority's TLS is not trusted", detail=detail, hint=hint)
        case RequestException():
            hint = f"{settings.directory_url} must be reachable from here: check the network, and acme.directory_url"
            return UnavailableError("the ACME authority does not answer", detail=detail, hint=hint)
        case _:
            hint = "it is tried again; check that acme.directory_url is an ACME directory"
            return UnavailableError("the ACME authority's answer cannot be used", detail=detail, hint=hint)


def _reasons(exc: errors.ValidationError) -> str:
    found: list[Any] = [challenge.error for failed in exc.failed_authzrs for challenge in _challenges(failed)]
    return "; ".join(f"{error.code}: {error.detail}" for error in found if error is not None)[:1000]


def _challenges(authorization: messages.AuthorizationResource) -> Sequence[Any]:
    return cast("Sequence[Any]", authorization.body.challenges)  # declared as what it is made from


_PROBLEMS: Final = {
    "rateLimited": "wait as the detail says, and try out changes with the authority's staging directory",
    "externalAccountRequired": "it issues to customers only: set acme.external_account to the key id and key that it gives you",
    "unauthorized": "check acme.external_account where the detail speaks of a binding, else who may issue for acme.names",
    "rejectedIdentifier": "it issues nothing for this name: check acme.names",
    "caa": "a CAA record of the domain forbids this authority: add it, or use another",
    "invalidContact": "check acme.contact",
    "unsupportedContact": "check acme.contact",
    "userActionRequired": "the detail says what has to be agreed to, and where",
}
