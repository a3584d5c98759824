"""Which platform to speak to, and as whom: one order for every command and for programs, and the first that is there counts.

1. A key that is given: an argument, `--api-key-file`.
2. `PENSTOCK_API_KEY`.
3. The profile that `PENSTOCK_PROFILE` names.
4. `.penstock/profile.json` in the working directory, which `penstock up` writes.
5. The session of `penstock login`, while it lasts.
6. `~/.config/penstock/profile.json`.
7. `ANTHROPIC_API_KEY` or `ANTHROPIC_AUTH_TOKEN` with `ANTHROPIC_BASE_URL`, as the official SDK reads them. Never without that
   URL, and last: mostly such a key is meant for another platform.

A credential goes only to the platform it was given for. A key of 1 or 2 takes that from `api_url` (`--api-url`) or
`PENSTOCK_API_URL`, every other one knows its own, and is passed over where another URL is asked for.

A profile is a JSON file `{"api_url": …, "api_key": …, "ca_file": …}`, the last where the platform's CA is a private one; it
holds a key, so a file that others may read or that somebody else owns is refused.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.client import pins, sessions
from penstock.config.files import write_file
from penstock.config.pem import read_authorities
from penstock.errors import ConfigError, IdentityError, unreadable
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_HINT: Final = (
    "run `penstock login`, or set PENSTOCK_API_URL and PENSTOCK_API_KEY, or give --api-key-file, "
    "or work in the folder where `penstock up` runs"
)
_HERE: Final = Path(".penstock/profile.json")


@dataclass(frozen=True, slots=True)
class Access:
    """A platform's API and the key to it.

    ca_file: the platform's CA where the system does not know it. pins: the folder where CAs of tunnels are remembered, for
    longer than the life of a transport. ca_pins: fingerprints of tunnels' CAs, believed alone. kept: the folder where a
    command leaves its certificate to the next (`penstock.client.kept`). source: where the key is from, in the words it is
    called by when it is refused. is_session: whether it is a person's, signed in. expires_at: until when, where that is known.
    """

    api_url: str
    api_key: Secret
    ca_file: Path | None = None
    pins: Path | None = None
    ca_pins: frozenset[str] = frozenset()
    kept: Path | None = field(default=None, compare=False)
    source: str = field(default="API key", compare=False)
    is_session: bool = field(default=False, compare=False)
    expires_at: datetime | None = field(default=None, compare=False)


class _Profile(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    api_url: str
    api_key: str
    ca_file: Path | None = None


def find_access(
    api_url: str | None = None,
    api_key: Secret | str | None = None,
    *,
    ca_file: Path | None = None,
    source: str = "API key that was given",
    environment: Mapping[str, str] | None = None,
) -> Access:
    """The access to use. source: what `api_key` is called when it is refused.

    Raises ConfigError that says what to set, IdentityError where there is nothing but a session that is over.
    """
    variables = os.environ if environment is None else environment
    url = (api_url or variables.get("PENSTOCK_API_URL") or "").rstrip("/")
    if api_key:
        found = Access(_known(url), api_key if isinstance(api_key, Secret) else Secret(api_key), source=source)
    elif key := variables.get("PENSTOCK_API_KEY"):
        found = Access(_known(url), Secret(key), source="key in PENSTOCK_API_KEY")
    else:
        found = _found(url, variables)
    ca_pins = pins.parse_fingerprints(variables.get("PENSTOCK_CA_PIN", ""))
    ca = _checked_ca(found, ca_file, variables)
    return replace(found, ca_file=ca, pins=pins.find_folder(variables), ca_pins=ca_pins)


def _known(url: str) -> str:
    if not url:
        # A profile's URL is no answer: whoever can leave a file in the working directory would be sent the key.
        raise ConfigError(
            "which platform the key is for is not known",
            hint="give --api-url or set PENSTOCK_API_URL; without the key a profile or the session of `penstock login` is used",
        )
    return url


def _found(url: str, variables: Mapping[str, str]) -> Access:
    """The first credential that knows its platform itself, and is for `url` where that is not empty."""
    over: IdentityError | None = None
    for find in (_profile_named_or_here, _session, _profile_at_home, _sdk):
        try:
            found = find(variables)
        except IdentityError as exc:
            over = exc  # what comes after may do, and is told by `source`
            continue
        if found is not None and url in ("", found.api_url):
            return found
    if over is not None:
        raise over
    raise ConfigError(f"an API key for {url} is not known" if url else "the platform's API URL is not known", hint=_HINT)


def _profile_named_or_here(variables: Mapping[str, str]) -> Access | None:
    if named := variables.get("PENSTOCK_PROFILE"):
        return _read(Path(named), required=True)
    return _read(_HERE, required=False)


def _profile_at_home(variables: Mapping[str, str]) -> Access | None:
    home = variables.get("HOME") or variables.get("USERPROFILE")
    return _read(Path(home) / ".config" / "penstock" / "profile.json", required=False) if home else None


def _session(variables: Mapping[str, str]) -> Access | None:
    if not any(variables.get(name) for name in ("PENSTOCK_SESSION", "HOME", "USERPROFILE")):
        return None
    kept = sessions.find(variables)
    if kept is None:
        return None
    if kept.is_over:
        when = kept.expires_at.astimezone().strftime("%Y-%m-%d %H:%M")
        raise IdentityError(f"the session at {kept.api_url} ended at {when}", hint="run `penstock login`")
    return Access(
        kept.api_url,
        Secret(kept.session_token),
        kept.ca_file,
        source=f"session of {kept.email}",
        is_session=True,
        expires_at=kept.expires_at,
    )


def _sdk(variables: Mapping[str, str]) -> Access | None:
    base = variables.get("ANTHROPIC_BASE_URL", "").rstrip("/")
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        if base and (key := variables.get(name)):
            return Access(base, Secret(key), source=f"key in {name}")
    return None


def _checked_ca(found: Access, ca_file: Path | None, variables: Mapping[str, str]) -> Path | None:
    """Whose CA file counts; one that cannot be used is told by what names it."""
    named = variables.get("PENSTOCK_CA_FILE")
    file = ca_file or (Path(named) if named else found.ca_file)
    if file is not None and found.api_url.startswith("https:"):
        by = f"ca_file of the {found.source}" if file is found.ca_file else "--ca-file"
        read_authorities(file, "PENSTOCK_CA_FILE" if named and Path(named) == file else by)
    return file


def write_profile(file: Path, access: Access) -> None:
    """Write a profile that only this user can read."""
    members = {"api_url": access.api_url, "api_key": access.api_key.reveal()}
    if access.ca_file is not None:
        members["ca_file"] = str(access.ca_file.absolute())
    write_file(file, json.dumps(members, indent=2) + "\n")


def _read(file: Path, *, required: bool) -> Access | None:
    try:
        with file.open(encoding="utf-8") as stream:
            _check_owner(file, os.fstat(stream.fileno()))
            profile = _Profile.model_validate_json(stream.read())
    except FileNotFoundError:
        if not required:
            return None
        raise ConfigError(f"profile {file}: no such file", hint="PENSTOCK_PROFILE names it") from None
    except OSError as exc:
        error = unreadable(file, exc)
        raise ConfigError(f"profile {file}: {error.public}", hint=error.hint) from exc
    except (ValidationError, UnicodeDecodeError):
        raise ConfigError(f"profile {file}: not a profile", hint='it is JSON with "api_url" and "api_key"') from None
    return Access(profile.api_url.rstrip("/"), Secret(profile.api_key), profile.ca_file, source=f"key of the profile {file}")


def _check_owner(file: Path, status: os.stat_result) -> None:
    if os.name == "nt":
        return  # access lists, not modes, decide there
    if status.st_uid != os.getuid():
        raise ConfigError(
            f"profile {file}: owned by another user", hint="a profile decides whom your calls trust; use your own"
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"profile {file}: readable or writable by others", hint=f"chmod 600 {file}")
