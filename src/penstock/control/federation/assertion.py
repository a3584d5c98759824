"""Assertions: JWTs, checked in the order of the published debugging list. Pure: keys and the time are passed in.

Reading comes first and trusts nothing; `Verified` comes out of `verify` alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import jwt
from jwt.utils import base64url_decode

from penstock.control.federation import jwks
from penstock.control.federation.denial import Denial

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

LARGEST: Final = 16 << 10
LEEWAY: Final = 30.0

_KID_LONGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class Unverified:
    """What an assertion says of itself. Good for choosing a key, and for nothing else."""

    text: str
    algorithm: str
    kid: str
    issuer: str
    subject: str | None


@dataclass(frozen=True, slots=True)
class Verified:
    """An assertion that its issuer signed and that holds now."""

    subject: str
    issued_at: float
    expires_at: float
    jti: str | None
    audience: tuple[str, ...]
    claims: Mapping[str, Any]


def read(text: str) -> Unverified:
    """Take an assertion apart. Raises Denial."""
    if len(text) > LARGEST:
        raise Denial("assertion_too_large", f"{len(text)} bytes, {LARGEST} are allowed")
    parts = text.split(".")
    if len(parts) != 3:
        raise Denial("assertion_malformed", "not a signed JWT: three parts are expected")
    header, claims = _object(parts[0], "header"), _object(parts[1], "claims")
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in jwks.ALGORITHMS:
        raise Denial("algorithm_not_allowed", f"alg is {algorithm!r:.40}")
    if "crit" in header:
        raise Denial("critical_header", "crit names extensions that are not understood here")
    if not isinstance(kid, str) or not kid or len(kid) > _KID_LONGEST:
        raise Denial("kid_missing", "the header needs a kid")
    issuer, subject = claims.get("iss"), claims.get("sub")
    return Unverified(
        text,
        cast("str", algorithm),
        kid,
        issuer if isinstance(issuer, str) else "",
        subject if isinstance(subject, str) else None,
    )


def verify(unverified: Unverified, key: Mapping[str, Any], *, now: datetime, lifetime_most: int) -> Verified:
    """Check the signature, then every time. Raises Denial. The audience is the rule's to judge."""
    public = jwks.verifier(key, unverified.algorithm)
    try:
        payload = jwt.PyJWS(algorithms=[unverified.algorithm]).decode(unverified.text, public, [unverified.algorithm])
    except jwt.PyJWTError as exc:
        raise Denial("signature_invalid", str(exc)[:200]) from None
    claims = _json_object(cast("bytes", payload), "claims")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise Denial("subject_missing", "sub is required")
    issued_at, expires_at = _times(claims, now.timestamp(), lifetime_most)
    jti = claims.get("jti")
    if jti is not None and (not isinstance(jti, str) or not jti):
        raise Denial("jti_malformed", "jti must be text")
    return Verified(subject, issued_at, expires_at, jti, _audience(claims), claims)


def _times(claims: Mapping[str, Any], now: float, lifetime_most: int) -> tuple[float, float]:
    issued_at, expires_at, not_before = (_number(claims, name) for name in ("iat", "exp", "nbf"))
    if issued_at is None:
        raise Denial("issued_at_missing", "iat is required")
    if expires_at is None:
        raise Denial("expiry_missing", "exp is required")
    if issued_at > now + LEEWAY:
        raise Denial("issued_in_future", f"iat is {issued_at - now:.0f} s ahead; compare the clocks")
    if expires_at <= now - LEEWAY:
        raise Denial("expired", f"exp was {now - expires_at:.0f} s ago")
    if not_before is not None and not_before > now + LEEWAY:
        raise Denial("not_yet_valid", f"nbf is {not_before - now:.0f} s ahead")
    if expires_at - issued_at > lifetime_most:
        raise Denial("lifetime_too_long", f"exp - iat is {expires_at - issued_at:.0f} s; this issuer may have {lifetime_most}")
    return issued_at, expires_at


def _number(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # Bounded, for what follows computes with it: 2^53 is a date a long way off.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**53:
        raise Denial("assertion_malformed", f"{name} is no date")
    return float(value)


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...]:
    value = claims.get("aud")
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    return tuple(one for one in values if isinstance(one, str))


def _object(part: str, name: str) -> dict[str, Any]:
    try:
        return _json_object(base64url_decode(part), name)
    except ValueError:  # binascii's is one
        raise Denial("assertion_malformed", f"the {name} cannot be read") from None


def _json_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
        _check_texts(found)
    except (ValueError, RecursionError):
        raise Denial("assertion_malformed", f"the {name} cannot be read") from None
    if not isinstance(found, dict):
        raise Denial("assertion_malformed", f"the {name} must be an object")
    return cast("dict[str, Any]", found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two claims of one name mean different things to different readers.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _check_texts(found: Any) -> None:
    # Half a surrogate pair is no text, and a NUL no database keeps: nobody could write down what such an assertion said.
    text = json.dumps(found, ensure_ascii=False)
    text.encode()
    if "\\u0000" in text:
        raise ValueError("a text holds a NUL")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
