"""Which platform to speak to, and as whom: arguments, then the environment, then a profile.

A profile is a JSON file `{"api_url": …, "api_key": …, "ca_file": …}` (the last where the platform's CA is a private one;
`PENSTOCK_CA_FILE` in the environment): `$PENSTOCK_PROFILE`, else `.penstock/profile.json` in the working
directory (`penstock up` writes it), else `~/.config/penstock/profile.json`. It holds a key, so a file that others may read
or that somebody else owns is refused. Where there is none, the session of `penstock login` takes its place while it lasts.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.client import pins, sessions
from penstock.config.files import write_file
from penstock.errors import ConfigError
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

_HINT: Final = (
    "set PENSTOCK_API_URL and PENSTOCK_API_KEY, or run `penstock login`, or work in the folder where `penstock up` runs"
)


@dataclass(frozen=True, slots=True)
class Access:
    """A platform's API and the key to it.

    ca_file: the platform's CA where the system does not know it. pins: the folder where CAs of tunnels are remembered, for
    longer than the life of a transport. ca_pins: fingerprints of tunnels' CAs, believed alone.
    """

    api_url: str
    api_key: Secret
    ca_file: Path | None = None
    pins: Path | None = None
    ca_pins: frozenset[str] = frozenset()


class _Profile(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    api_url: str
    api_key: str
    ca_file: Path | None = None


def find_access(
    api_url: str | None = None,
    api_key: Secret | str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Access:
    """The access to use, or a ConfigError that says what to set."""
    variables = os.environ if environment is None else environment
    url = api_url or variables.get("PENSTOCK_API_URL")
    key = api_key or variables.get("PENSTOCK_API_KEY")
    ca_file = Path(named) if (named := variables.get("PENSTOCK_CA_FILE")) else None
    if key and not url:
        # A profile's URL is no answer: whoever can leave a file in the working directory would be sent the key.
        raise ConfigError(
            "which platform the key is for is not known",
            hint="set PENSTOCK_API_URL to that platform, or unset PENSTOCK_API_KEY to use a profile or `penstock login`",
        )
    if not url or not key:
        profile = _first_profile(variables)
        if profile is None:
            missing = "the platform's API URL" if not url else "an API key"
            raise ConfigError(f"{missing} is not known", hint=_HINT)
        # A key belongs to one platform: it is never sent to a URL that came from elsewhere.
        if url and url.rstrip("/") != profile.api_url.rstrip("/"):
            raise ConfigError(f"an API key for {url} is not known", hint=_HINT)
        url, key, ca_file = profile.api_url, profile.api_key, ca_file or profile.ca_file
    secret = key if isinstance(key, Secret) else Secret(key)
    ca_pins = pins.parse_fingerprints(variables.get("PENSTOCK_CA_PIN", ""))
    return Access(url.rstrip("/"), secret, ca_file, pins.find_folder(variables), ca_pins)


def write_profile(file: Path, access: Access) -> None:
    """Write a profile that only this user can read."""
    members = {"api_url": access.api_url, "api_key": access.api_key.reveal()}
    if access.ca_file is not None:
        members["ca_file"] = str(access.ca_file.absolute())
    write_file(file, json.dumps(members, indent=2) + "\n")


def _first_profile(variables: Mapping[str, str]) -> _Profile | None:
    if named := variables.get("PENSTOCK_PROFILE"):
        return _read(Path(named), required=True)
    home = variables.get("HOME") or variables.get("USERPROFILE")
    places = [Path(".penstock/profile.json")]
    if home:
        places.append(Path(home) / ".config" / "penstock" / "profile.json")
    for place in places:
        if (profile := _read(place, required=False)) is not None:
            return profile
    if not home and not variables.get("PENSTOCK_SESSION"):
        return None
    kept = sessions.find(variables)
    if kept is None or kept.is_over:
        return None
    return _Profile(api_url=kept.api_url, api_key=kept.session_token, ca_file=kept.ca_file)


def _read(file: Path, *, required: bool) -> _Profile | None:
    try:
        with file.open(encoding="utf-8") as stream:
            _check_owner(file, os.fstat(stream.fileno()))
            return _Profile.model_validate_json(stream.read())
    except FileNotFoundError:
        if not required:
            return None
        raise ConfigError(f"profile {file}: no such file", hint="PENSTOCK_PROFILE names it") from None
    except OSError as exc:
        raise ConfigError(f"profile {file}: {exc.strerror}") from exc
    except (ValidationError, UnicodeDecodeError):
        raise ConfigError(f"profile {file}: not a profile", hint='it is JSON with "api_url" and "api_key"') from None


def _check_owner(file: Path, status: os.stat_result) -> None:
    if os.name == "nt":
        return  # access lists, not modes, decide there
    if status.st_uid != os.getuid():
        raise ConfigError(
            f"profile {file}: owned by another user", hint="a profile decides whom your calls trust; use your own"
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"profile {file}: readable or writable by others", hint=f"chmod 600 {file}")
