"""The plain port that an ACME authority asks (HTTP-01, RFC 8555 8.3). It answers open challenges and nothing else.

No redirect to the API: a client that was given `http://` by mistake would send its key in the clear and go on unnoticed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from penstock.control.api.addresses import site
from penstock.control.serving import HttpServer

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from penstock.config.types import HostPort
    from penstock.control.certificate.folder import AcmeFolder

CONNECTIONS: Final = 512  # authorities ask from a handful of places, once each; strangers get the rest
EACH: Final = 16  # of one address: no stranger holds them all, and a renewal with them
STOP_SECONDS: Final = 1.0
_PREFIX: Final = "/.well-known/acme-challenge/"
_OTHER: Final = b"this port answers certificate challenges; the API is on https\n"


class Answers:
    """Serves the folder's open challenges."""

    def __init__(self, folder: AcmeFolder) -> None:
        self._folder = folder
        self._server = HttpServer(self, CONNECTIONS, EACH, site)

    @property
    def address(self) -> HostPort:
        """What is bound; after `start`."""
        return self._server.address

    async def start(self, address: HostPort) -> None:
        """Listening when it returns. Raises ConfigError."""
        await self._server.start(address, None)

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop(STOP_SECONDS)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        path = str(scope["path"])
        is_asked = scope["method"] == "GET" and path.startswith(_PREFIX)
        answer = await asyncio.to_thread(self._folder.answer, path.removeprefix(_PREFIX)) if is_asked else None
        body = _OTHER if answer is None else answer.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 404 if answer is None else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
