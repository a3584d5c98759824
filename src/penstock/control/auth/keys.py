"""Bearer secrets: made here, shown once, stored as SHA-256.

A plain hash is right for them: 256 random bits cannot be guessed however fast the hash is. Looking a hash up in an index
leaks nothing either, for a guesser controls the secret and not its hash.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from enum import Enum
from typing import TYPE_CHECKING, Final

from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

ENTROPY: Final = 32


class Kind(Enum):
    """The value is the secret's prefix: it tells people and secret scanners what leaked."""

    API_KEY = "pst-key-"
    TUNNELS_KEY = "pst-tunnels-"
    ACCESS_TOKEN = "pst-token-"  # noqa: S105 - a prefix
    SESSION = "pst-session-"
    ENROLMENT = "pst-enrol-"
    EDGE = "pst-edge-"


def make(kind: Kind, entropy: Callable[[int], bytes]) -> Secret:
    """A new secret of this kind."""
    return Secret(kind.value + urlsafe_b64encode(entropy(ENTROPY)).rstrip(b"=").decode())


def digest(secret: Secret) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.reveal().encode()).hexdigest()


def hint(secret: Secret) -> str:
    """What lists show of a secret, so that its owner knows it again: the prefix and four of its 43 characters."""
    text = secret.reveal()
    kind = next((kind.value for kind in Kind if text.startswith(kind.value)), "")
    return f"{kind}…{text[-4:]}"


def is_kind(secret: Secret, kind: Kind) -> bool:
    """Whether a presented secret claims to be of this kind."""
    return secret.reveal().startswith(kind.value)
