"""What is fuzzed, by name."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hypothesis import strategies as st

from fuzz import messages, settings
from penstock.proxy.oauth.tokens import KeySet, TokenError, read_header

if TYPE_CHECKING:
    from collections.abc import Callable


class Target(NamedTuple):
    """A property and what it is drawn from."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]


def _token(text: str) -> None:
    """The part of a bearer token that is read before its signature is."""
    with contextlib.suppress(TokenError):
        kid, algorithm = read_header(text)
        assert KeySet(None).find(kid, algorithm) is None


_TOKENS: Final = st.binary(max_size=80).map(
    lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
) | st.sampled_from(["eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0", "eyJhbGciOm51bGx9", "e30", "AAAA"])

TARGETS: Final = {
    "requests": Target(messages.REQUESTS, messages.request),
    "responses": Target(messages.RESPONSES, messages.response),
    "config": Target(settings.TEXTS, settings.config),
    "tokens": Target(st.lists(_TOKENS, min_size=1, max_size=4).map(".".join), _token),
}
