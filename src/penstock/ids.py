"""Identifiers: parse them, make them (the entropy is passed in), and nothing else.

An id is `<prefix>_` and letters and digits; an organization and a tunnel's wire id are bare UUIDs. Ids are public: they
name things and open nothing.
"""

from __future__ import annotations

import re
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghijkmnopqrstuvwxyz"
_BODY: Final = re.compile(r"[0-9A-Za-z]{1,64}")
_ENTROPY: Final = 16
_LENGTH: Final = 24

TUNNEL: Final = "tnl"
CERTIFICATE: Final = "tcrt"
TOKEN: Final = "ttkn"  # noqa: S105 - a prefix, not a secret
WORKSPACE: Final = "wrkspc"
API_KEY: Final = "apikey"
CALLER: Final = "clr"
EDGE: Final = "edg"
REQUEST: Final = "req"
ACTIVITY: Final = "activity"
ENROLMENT: Final = "enrl"
USER: Final = "user"
SESSION: Final = "sess"
SERVICE_ACCOUNT: Final = "svac"
ISSUER: Final = "fdis"
RULE: Final = "fdrl"
ACCESS_TOKEN: Final = "otok"  # noqa: S105 - as above
AUTHENTICATION: Final = "authn"


def make(prefix: str, entropy: bytes) -> str:
    """An id of `prefix` from 16 bytes of entropy or more; the same bytes give the same id."""
    if len(entropy) < _ENTROPY:
        msg = f"an id needs {_ENTROPY} bytes of entropy"
        raise ValueError(msg)
    number = int.from_bytes(entropy[:_ENTROPY], "big")
    letters: list[str] = []
    while len(letters) < _LENGTH:
        number, index = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[index])
    return f"{prefix}_{''.join(reversed(letters))}"


def is_valid(prefix: str, text: str) -> bool:
    """Whether `text` is an id of this kind."""
    head, separator, body = text.partition("_")
    return head == prefix and bool(separator) and _BODY.fullmatch(body) is not None
