"""A command's credential: what was said on the command line, and else what `penstock.client.access` finds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock.client.access import Access, find_access
from penstock.client.control import ControlClient
from penstock.config.files import named_by, read_text
from penstock.errors import ConfigError
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.cli.resources.options import Options

_SIGN_IN: Final = "run `penstock login --api-url …` as somebody who may do this"
_OTHER_KEY: Final = "give a key that may do this, or unset it and run `penstock login`"


def open_client(options: Options, environment: Mapping[str, str]) -> ControlClient:
    """A client of the platform. Raises ConfigError where there is no credential, IdentityError where the session is over."""
    return client_of(find(options, environment), options.workspace_id)


def client_of(access: Access, workspace_id: str | None = None) -> ControlClient:
    """As `open_client`, for an access that was found."""
    return ControlClient(
        access.api_url,
        access.api_key,
        ca_file=access.ca_file,
        credential=access.source,
        refused_hint=_SIGN_IN if access.is_session else _OTHER_KEY,
        workspace_id=workspace_id,
    )


def find(options: Options, environment: Mapping[str, str]) -> Access:
    """As `open_client`, without the client."""
    key = _read_key(options.api_key_file) if options.api_key_file is not None else None
    source = f"key in {'stdin' if options.api_key_file == '-' else options.api_key_file}"
    return find_access(options.api_url, key, ca_file=options.ca_file, source=source, environment=environment)


def _read_key(name: str) -> Secret:
    with named_by("--api-key-file"):
        text = (sys.stdin.read() if name == "-" else read_text(Path(name))).strip()
        if not text:
            raise ConfigError(f"{'stdin' if name == '-' else name} is empty", hint="it holds the key and nothing else")
        if len(text.split()) > 1:
            raise ConfigError(f"{name} holds no key", hint="it holds the key and nothing else: one word, pst-…")
        return Secret(text)
