"""Which platform a command speaks to, and as whom.

In this order: `--api-key-file`, `PENSTOCK_API_KEY`, the session of `penstock login`, `ANTHROPIC_API_KEY` or
`ANTHROPIC_AUTH_TOKEN` as the official SDK reads them, a profile. A key goes only to the platform it was given for: to
`--api-url` or `PENSTOCK_API_URL`, to where the session is from, to `ANTHROPIC_BASE_URL`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.client import sessions
from penstock.client.access import find_access
from penstock.client.control import ControlClient
from penstock.config.files import read_file
from penstock.errors import ConfigError, IdentityError
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIGN_IN: Final = "run `penstock login --api-url …` as somebody who may do this"
_OTHER_KEY: Final = "give a key that may do this, or unset it and run `penstock login`"


@dataclass(frozen=True, slots=True)
class Options:
    """What was said on the command line."""

    api_url: str | None = None
    api_key_file: str | None = None
    ca_file: Path | None = None
    workspace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A platform and a credential for it; `name` is what to call that when it is refused, `hint` what to do then."""

    api_url: str
    secret: Secret
    name: str
    hint: str
    ca_file: Path | None = None


def open_client(options: Options, environment: Mapping[str, str]) -> ControlClient:
    """A client of the platform. Raises ConfigError where there is no credential, IdentityError where the session is over."""
    found = find(options, environment)
    return ControlClient(
        found.api_url,
        found.secret,
        ca_file=found.ca_file,
        credential=found.name,
        refused_hint=found.hint,
        workspace_id=options.workspace_id,
    )


def find(options: Options, environment: Mapping[str, str]) -> Found:
    """As `open_client`, without the client."""
    url = options.api_url or environment.get("PENSTOCK_API_URL") or None
    ca_file = options.ca_file or (Path(named) if (named := environment.get("PENSTOCK_CA_FILE")) else None)
    if options.api_key_file is not None:
        return Found(_given(url), _read_key(options.api_key_file), f"key in {options.api_key_file}", _OTHER_KEY, ca_file)
    if key := environment.get("PENSTOCK_API_KEY"):
        return Found(_given(url), Secret(key), "key in PENSTOCK_API_KEY", _OTHER_KEY, ca_file)
    return (
        _session(url, ca_file, environment)
        or _sdk(url, ca_file, environment)
        or _profile(url, ca_file, environment)
    )  # fmt: skip


def _given(url: str | None) -> str:
    if url is None:
        raise ConfigError("which platform the key is for is not known", hint="give --api-url or set PENSTOCK_API_URL")
    return url


def _session(url: str | None, ca_file: Path | None, environment: Mapping[str, str]) -> Found | None:
    if not (environment.get("PENSTOCK_SESSION") or environment.get("HOME") or environment.get("USERPROFILE")):
        return None
    kept = sessions.find(environment)
    if kept is None or (url is not None and url.rstrip("/") != kept.api_url):
        return None
    if kept.is_over:
        when = kept.expires_at.astimezone().strftime("%Y-%m-%d %H:%M")
        raise IdentityError(f"the session at {kept.api_url} ended at {when}", hint="run `penstock login`")
    name = f"session of {kept.email}"
    return Found(kept.api_url, Secret(kept.session_token), name, _SIGN_IN, ca_file or kept.ca_file)


def _sdk(url: str | None, ca_file: Path | None, environment: Mapping[str, str]) -> Found | None:
    """The SDK's own variables: never without their URL, for such a key is mostly meant for another platform."""
    base = environment.get("ANTHROPIC_BASE_URL", "").rstrip("/")
    if not base or (url is not None and url.rstrip("/") != base):
        return None
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        if key := environment.get(name):
            return Found(base, Secret(key), f"key in {name}", _OTHER_KEY, ca_file)
    return None


def _profile(url: str | None, ca_file: Path | None, environment: Mapping[str, str]) -> Found:
    try:
        access = find_access(url, environment=environment)
    except ConfigError as exc:
        hint = "run `penstock login`, or set PENSTOCK_API_URL and PENSTOCK_API_KEY, or give --api-key-file"
        raise ConfigError(exc.public, detail=exc.detail, hint=exc.hint if "profile" in exc.public else hint) from None
    return Found(access.api_url, access.api_key, "key of the profile", _OTHER_KEY, ca_file or access.ca_file)


def _read_key(name: str) -> Secret:
    text = sys.stdin.read() if name == "-" else read_file(Path(name))
    if text is None:
        raise ConfigError(f"--api-key-file: there is no file {name}", hint="it holds the key and nothing else")
    if not text.strip():
        raise ConfigError(f"--api-key-file: {name} is empty", hint="it holds the key and nothing else")
    return Secret(text.strip())
