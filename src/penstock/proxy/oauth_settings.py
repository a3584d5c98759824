"""The settings of `require_oauth`: whose tokens a route takes, and where their keys come from."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - pydantic reads annotations at run time
from typing import Final, Literal, NamedTuple

from pydantic import Field, model_validator

from penstock.config.load import Section
from penstock.config.types import Duration, Networks  # noqa: TC001 - as above

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?(?P<path>/[!$-;=?-~]*)?"
)
_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")  # RFC 6749 3.3


class Url(NamedTuple):
    """An `http` or `https` URL in its parts; `path` has the query and begins with a slash."""

    is_tls: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """ValueError for anything else, for user names and for fragments."""
        match = _URL.fullmatch(text)
        if match is None or not 0 < int(match["port"] or 1) < 65536:
            msg = "must be a URL like https://login.example.com/path"
            raise ValueError(msg)
        is_tls = match["scheme"] == "https"
        return cls(
            is_tls, match["host"].lower().strip("[]"), int(match["port"] or (443 if is_tls else 80)), match["path"] or "/"
        )


class OAuthConfig(Section):
    """Bearer tokens that a route asks for, in front of a server that has no authorization of its own. The proxy answers 401
    with the way to the issuer (RFC 9728), and passes only requests with a token that the issuer signed for this route.
    """

    issuer: str
    """The authorization server's identifier, an `https` URL, letter for letter as tokens have it in `iss`."""

    audience: str
    """What tokens have in `aud`: the route's URL as callers write it, where the issuer honours RFC 8707, else its own name."""

    scopes: tuple[str, ...] = ()
    """Every one of them must be in the token's `scope` (or `scp`)."""

    jwks_url: str | None = None
    """Where the issuer's keys are. When not set, the issuer's metadata says it (RFC 8414, OpenID Connect Discovery). An issuer
    that is itself a route of this tunnel needs it, for the proxy does not call itself."""

    allowed_ips: Networks | None = None
    """CIDRs or single addresses at which metadata and keys may be fetched; RFC 1918 when not set. Upstreams' lists do not count
    here, nor this one there: a public issuer opens the Internet to nobody's route."""

    ca_file: Path | None = None
    """PEM bundle of CAs for the issuer's `https`."""

    include_system_cas: bool = True
    """Trust the system's CAs for the issuer's `https`, as public issuers need it."""

    token: Literal["strip", "pass"] = "strip"  # noqa: S105 - what is done with one
    """`strip` takes the token out of the request: a server that does not look at it need not have it. `pass` leaves it in."""

    keys_max_age: Duration = Field(default=600.0, ge=1)
    """How long fetched keys are used before they are fetched again. A key that is not known yet is asked for at once; one that
    was withdrawn is taken for so long."""

    @model_validator(mode="after")
    def _is_valid(self) -> OAuthConfig:
        if not self.issuer.startswith("https://") or "?" in self.issuer:
            msg = "issuer must be an https URL without a query"
            raise ValueError(msg)
        Url.parse(self.issuer)
        if self.jwks_url is not None:
            Url.parse(self.jwks_url)
        if not self.audience:
            msg = "audience must not be empty: any token of the issuer would do"
            raise ValueError(msg)
        if not all(_SCOPE.fullmatch(scope) for scope in self.scopes):
            msg = "scopes must be words without blanks and quotes"
            raise ValueError(msg)
        if self.allowed_ips == ():
            msg = "allowed_ips is empty: no key could be fetched; leave it out for RFC 1918"
            raise ValueError(msg)
        return self
