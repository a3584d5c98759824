"""One bearer token against one issuer's keys (RFC 7519, 8725, 9068). Pure but for the clock of the JWT library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import jwt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.proxy.oauth_settings import OAuthConfig

# Asymmetric only: with HS256 whoever can verify can sign. The key's type says which of them it may be used with.
_KEY_TYPES: Final = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
# RFC 9068 and what older issuers write. Anything else was made for another use: `dpop+jwt`, `logout+jwt`, `secevent+jwt`.
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt", "jwt", "application/jwt"})
_LEEWAY: Final = 30.0  # seconds by which clocks differ
_OPTIONS: Final[Any] = {"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True}


class TokenError(Exception):
    """The token does not count. The text is ours and may be told; `is_scope` says that it lacks one, and nothing else."""

    def __init__(self, why: str, *, is_scope: bool = False) -> None:
        super().__init__(why)
        self.is_scope = is_scope


class KeySet:
    """The signing keys of an issuer, from its JWKS document; keys that nobody should use are left out."""

    def __init__(self, document: object) -> None:
        listed = cast("dict[str, object]", document).get("keys") if isinstance(document, dict) else None
        keys = cast("list[object]", listed) if isinstance(listed, list) else []
        self._keys = [cast("dict[str, Any]", key) for key in keys if isinstance(key, dict)]
        self._keys = [key for key in self._keys if key.get("use", "sig") == "sig" and key.get("kty") in ("RSA", "EC", "OKP")]
        self._made: dict[tuple[str | None, str], jwt.PyJWK | None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of that id for that algorithm; without an id the only one there is."""
        if (kid, algorithm) not in self._made:
            fitting = self._fitting(kid, algorithm)
            if not fitting:
                return None  # not kept: ids that nobody has would fill the memory
            self._made[kid, algorithm] = _make(fitting, algorithm)
        return self._made[kid, algorithm]

    def _fitting(self, kid: str | None, algorithm: str) -> Sequence[dict[str, Any]]:
        fitting = [
            key
            for key in self._keys
            if key["kty"] == _KEY_TYPES[algorithm]
            and key.get("alg", algorithm) == algorithm
            and (kid is None or key.get("kid") == kid)
        ]
        return fitting if kid is not None or len(fitting) == 1 else ()


def _make(fitting: Sequence[dict[str, Any]], algorithm: str) -> jwt.PyJWK | None:
    try:
        return jwt.PyJWK(fitting[0], algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):  # the last three: of numbers that make no key
        return None


def read_header(token: str) -> tuple[str | None, str]:
    """(kid, algorithm) of a token that may be worth a look at its signature; TokenError otherwise."""
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, RecursionError, ValueError):
        raise TokenError("the token is not a signed JWT") from None
    algorithm, kind, kid = header.get("alg"), header.get("typ", "JWT"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _KEY_TYPES:
        raise TokenError("the token is not signed with an asymmetric key")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenError("the token is of another type")
    if "crit" in header:  # RFC 7515 4.1.11: what must be understood, and is not
        raise TokenError("the token asks for what is not understood here")
    return kid if isinstance(kid, str) else None, algorithm


def check(token: str, key: jwt.PyJWK, algorithm: str, config: OAuthConfig) -> None:
    """TokenError unless `key` signed this token for this route."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=config.audience,
            issuer=config.issuer,
            leeway=_LEEWAY,
            options=_OPTIONS,
        )
    except jwt.ExpiredSignatureError:
        raise TokenError("the token has expired") from None
    except jwt.InvalidAudienceError:
        raise TokenError("the token is for another audience") from None
    except jwt.InvalidIssuerError:
        raise TokenError("the token is from another issuer") from None
    except jwt.ImmatureSignatureError:
        raise TokenError("the token is not valid yet") from None
    except (jwt.PyJWTError, RecursionError, ValueError, TypeError):
        raise TokenError("the token's signature or claims are not valid") from None
    if (
        "cnf" in claims
    ):  # RFC 7800: it counts only with a proof that we do not ask for; taken as a bearer it could be a stolen one
        raise TokenError("the token is bound to a key, and is no bearer token")
    if not set(config.scopes) <= _scopes(claims):
        raise TokenError("the token lacks a scope", is_scope=True)


def _scopes(claims: dict[str, Any]) -> set[str]:
    """RFC 9068 has one text, some issuers `scp`, as a text or a list."""
    found: set[str] = set()
    for claim in (claims.get("scope"), claims.get("scp")):
        if isinstance(claim, str):
            found.update(claim.split())
        elif isinstance(claim, list):
            found.update(str(scope) for scope in cast("list[object]", claim))
    return found
