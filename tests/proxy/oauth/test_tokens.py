"""One token, one issuer's keys: what counts, and everything that must not."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.proxy.oauth.issuer import AUDIENCE, Key, claims, ed_key, rsa_key

from penstock.proxy.oauth.tokens import KeySet, TokenError, check, read_header
from penstock.proxy.oauth_settings import OAuthConfig

ISSUER = "https://login.example.com"
CONFIG = OAuthConfig(issuer=ISSUER, audience=AUDIENCE, scopes=("read",))
KEY = Key()


def verify(token: str, *keys: Key, config: OAuthConfig = CONFIG) -> None:
    kid, algorithm = read_header(token)
    found = KeySet({"keys": [key.jwk for key in keys or (KEY,)]}).find(kid, algorithm)
    if found is None:
        raise TokenError("no key")
    check(token, found, algorithm, config)


def good(**changes: Any) -> dict[str, Any]:
    return claims(ISSUER, **changes)


@pytest.mark.parametrize("key", [KEY, rsa_key(), ed_key()], ids=lambda key: key.algorithm)
def test_a_token_of_the_issuer_for_this_audience_counts(key: Key) -> None:
    verify(key.sign(good()), key)


@pytest.mark.parametrize(
    "changes",
    [{"aud": ["other", AUDIENCE]}, {"scope": None, "scp": ["read"]}, {"scope": None, "scp": "read"}, {"iat": None}],
)
def test_what_issuers_write_differently_counts_too(changes: dict[str, Any]) -> None:
    verify(KEY.sign(good(**changes)))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"exp": None}, "not valid"),
        ({"exp": "soon"}, "not valid"),
        ({"nbf": int(time.time()) + 600}, "not valid yet"),
        ({"aud": "https://elsewhere/mcp"}, "another audience"),
        ({"aud": None}, "not valid"),
        ({"aud": AUDIENCE + "/"}, "another audience"),
        ({"iss": ISSUER + "/"}, "another issuer"),
        ({"iss": None}, "not valid"),
        ({"sub": 7}, "not valid"),
        ({"cnf": {"jkt": "abc"}}, "bound to a key"),
        ({"scope": "write"}, "lacks a scope"),
        ({"scope": None}, "lacks a scope"),
        ({"scope": "reader"}, "lacks a scope"),
    ],
)
def test_other_claims_do_not_count(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(TokenError, match=why) as caught:
        verify(KEY.sign(good(**changes)))
    assert caught.value.is_scope == (why == "lacks a scope")


@pytest.mark.parametrize("kind", ["dpop+jwt", "logout+jwt", "secevent+jwt", "JOSE"])
def test_a_token_made_for_another_use_does_not_count(kind: str) -> None:
    with pytest.raises(TokenError, match="another type"):
        verify(KEY.sign(good(), typ=kind))


def test_a_token_without_a_type_counts() -> None:
    token = KEY.sign(good(), typ="")
    assert b"typ" not in base64.urlsafe_b64decode(token.partition(".")[0] + "==")
    verify(token)


def test_somebody_elses_signature_does_not_count() -> None:
    with pytest.raises(TokenError, match="signature"):
        verify(Key().sign(good()))


def test_a_changed_claim_does_not_count() -> None:
    head, _, signature = KEY.sign(good()).split(".")
    with pytest.raises(TokenError, match="signature"):
        verify(f"{head}.{encoded(good(sub='root'))}.{signature}")


def test_the_public_key_is_no_shared_secret() -> None:
    secret = KEY.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body = (encoded(part) for part in ({"alg": "HS256", "kid": "k1"}, good()))
    signature = hmac.digest(secret, f"{head}.{body}".encode(), "sha256")
    unsigned = encoded({"alg": "none", "kid": "k1"})
    for token in (f"{head}.{body}.{encoded(signature)}", f"{unsigned}.{body}."):
        with pytest.raises(TokenError, match="asymmetric"):
            verify(token)


def encoded(part: object) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "published",
    [{"use": "enc"}, {"kty": "oct", "k": "c2VjcmV0"}, {"kty": []}, {"alg": "ES512"}, {"x": "AA"}, {"x": 5}, {"crv": "P-384"}],
)
def test_a_key_for_something_else_verifies_nothing(published: dict[str, Any]) -> None:
    key = Key(private=KEY.private, published=published)
    with pytest.raises(TokenError, match="no key"):
        verify(KEY.sign(good()), key)


@pytest.mark.parametrize("published", [{"e": "Ag"}, {"e": "AA"}, {"n": 5}])
def test_numbers_that_make_no_key_verify_nothing(published: dict[str, Any]) -> None:
    key = rsa_key(2048)
    with pytest.raises(TokenError, match="no key"):
        verify(key.sign(good()), Key(private=key.private, kid=key.kid, algorithm=key.algorithm, published=published))


def test_an_rsa_key_that_is_too_short_verifies_nothing() -> None:
    key = rsa_key(1024)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = key.sign(good())
    with pytest.raises(TokenError):
        verify(token, key)


def test_a_token_that_asks_for_more_than_we_understand_does_not_count() -> None:
    with pytest.raises(TokenError):
        verify(KEY.sign(good(), crit=["exp"], exp=1))


def test_without_a_key_id_only_the_only_key_counts() -> None:
    token = KEY.sign(good(), kid=None)
    verify(token, KEY)
    verify(token, KEY, rsa_key(kid="r"))
    with pytest.raises(TokenError, match="no key"):
        verify(token, KEY, Key(kid="k2"))


@pytest.mark.parametrize(
    "document", [None, [], {}, {"keys": None}, {"keys": [7, {}, {"kty": "RSA"}]}, {"keys": {"kty": "RSA"}}]
)
def test_a_document_without_keys_has_none(document: object) -> None:
    keys = KeySet(document)
    assert keys.find("k1", "RS256") is None


def deep(levels: int) -> str:
    """A token whose header is brackets within brackets."""
    return base64.urlsafe_b64encode(b"[" * levels).rstrip(b"=").decode() + ".e30.AAAA"


@given(st.text(alphabet="abcABC019-_.=+/~", max_size=200) | st.integers(1, 30_000).map(deep))
def test_no_text_crashes_the_check(text: str) -> None:
    with pytest.raises(TokenError):
        verify(text)
