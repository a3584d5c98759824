"""Key sets: which keys of an issuer may verify an assertion. Public keys only, strong ones, each by its `kid`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from penstock.control.federation.denial import Denial
from penstock.tls.certs import is_costly_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")

_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_RSA_BITS: Final = 2048
_KEYS_MOST: Final = 100  # Google and GitHub publish fewer than ten
_SECRET_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def parse(document: bytes | str) -> tuple[dict[str, Any], ...]:
    """The usable keys of a JWK set as published. Raises ValueError; keys of other kinds are passed over, as RFC 7517 says."""
    try:
        found: Any = json.loads(document)
    except RecursionError:
        raise ValueError("not a JWK set") from None
    keys: Any = cast("dict[str, Any]", found).get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in cast("list[Any]", keys)):
        raise ValueError("not a JWK set: an object with a list of keys is expected")
    usable = tuple(key for key in cast("list[dict[str, Any]]", keys)[:_KEYS_MOST] if problem_of(key) is None)
    if not usable:
        raise ValueError("the JWK set holds no key that may verify an assertion")
    return usable


def problem_of(key: Mapping[str, Any]) -> str | None:
    """Why this key is none of ours; None when it is."""
    if not isinstance(key.get("kid"), str) or not key["kid"]:
        return "it has no kid"
    if not _SECRET_MEMBERS.isdisjoint(key):
        return "it is a private or a symmetric key; publish the public half only"
    if key.get("kty") not in ("RSA", "EC"):  # no set: what a stranger put there may have no hash
        return f"kty {key.get('kty')!r:.20} is not RSA or EC"
    operations: Any = key.get("key_ops", ["verify"])
    if key.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return "it is not for signatures"
    if key.get("alg", ALGORITHMS[0]) not in ALGORITHMS:
        return f"alg {key['alg']!r:.20} is not one of {', '.join(ALGORITHMS)}"
    try:
        public = _public_key(key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return "it cannot be read"
    return _weakness(public)


def find(keys: Iterable[Mapping[str, Any]], kid: str) -> Mapping[str, Any] | None:
    """The key of this id."""
    return next((key for key in keys if key.get("kid") == kid), None)


def verifier(key: Mapping[str, Any], algorithm: str) -> RSAPublicKey | EllipticCurvePublicKey:
    """The key as `algorithm` needs it. Raises Denial: a key is for one family, and on a curve for one algorithm."""
    if problem_of(key) is not None:
        raise Denial("key_unusable", f"key {key.get('kid')!r:.100}: {problem_of(key)}")
    public = _public_key(key)
    fits = isinstance(public, RSAPublicKey) if algorithm[0] in "RP" else _is_on_curve(public, algorithm)
    if not fits or key.get("alg", algorithm) != algorithm:
        raise Denial("key_unusable", f"key {key['kid']!r:.100} is not for {algorithm}")
    return public


def _public_key(key: Mapping[str, Any]) -> RSAPublicKey | EllipticCurvePublicKey:
    # A private key never gets here: `problem_of` has refused its members.
    read = RSAAlgorithm.from_jwk if key["kty"] == "RSA" else ECAlgorithm.from_jwk
    return cast("RSAPublicKey | EllipticCurvePublicKey", read(dict(key)))


def _weakness(public: RSAPublicKey | EllipticCurvePublicKey) -> str | None:
    if is_costly_key(public):
        return "it is so large that verifying would take too long"
    if isinstance(public, RSAPublicKey):
        return None if public.key_size >= _RSA_BITS else f"RSA of {public.key_size} bits is too weak; {_RSA_BITS} are needed"
    return None if public.curve.name in _CURVES.values() else f"curve {public.curve.name} is not P-256, P-384 or P-521"


def _is_on_curve(public: RSAPublicKey | EllipticCurvePublicKey, algorithm: str) -> bool:
    return isinstance(public, EllipticCurvePublicKey) and public.curve.name == _CURVES[algorithm]
