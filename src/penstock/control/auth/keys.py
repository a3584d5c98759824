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
    ENROLMENT = "pst-enrol-"
    EDGE = "pst-edge-"


def make(kind: Kind, entropy: Callable[[int], bytes]) -> Secret:
    """A new secret of this kind."""
    return Secret(kind.value + urlsafe_b64encode(entropy(ENTROPY)).rstrip(b"=").decode())


def digest(secret: Secret) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.reveal().encode()).hexdigest()


def is_kind(secret: Secret, kind: Kind) -> bool:
    """Whether a presented secret claims to be of this kind."""
    return secret.reveal().startswith(kind.value)
