"""Signing in with a browser: the authorization code flow of a native program (RFC 8252), PKCE (RFC 7636), loopback redirect.

One request is answered, on loopback, with the `state` that was sent out; everything else gets 404 and changes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from penstock.errors import IdentityError, UnavailableError
from penstock.schema.identities import OidcCode
from penstock.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.schema.identities import OidcLogin

PATIENCE: Final = 300.0  # seconds a person may take at the provider
_HEAD_LIMIT: Final = 16 << 10
_HEAD_SECONDS: Final = 10.0
_PATH: Final = "/callback"
_DONE: Final = "<!doctype html><title>Penstock</title><p>You are signed in. This window can be closed."
_FAILED: Final = "<!doctype html><title>Penstock</title><p>Signing in failed; the terminal says why."


async def ask(method: OidcLogin, show: Callable[[str], None], *, patience: float = PATIENCE) -> OidcCode:
    """The code a person comes back with. `show` gets the URL to open. Raises IdentityError, UnavailableError."""
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    answered: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _answer(reader, writer, state, answered)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_HEAD_LIMIT)
    async with server:
        redirect_uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{_PATH}"
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": method.client_id,
            "redirect_uri": redirect_uri,
            "scope": method.scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        separator = "&" if urlsplit(method.authorization_endpoint).query else "?"
        show(f"{method.authorization_endpoint}{separator}{urlencode(query)}")
        try:
            async with asyncio.timeout(patience):
                answer = await answered
        except TimeoutError:
            raise UnavailableError(
                "nobody signed in in time", hint="run the command again, and open the address it prints on this machine"
            ) from None
    if "code" not in answer:
        detail = answer.get("error_description") or answer.get("error")
        raise IdentityError("the identity provider refused", detail=detail, hint="ask who runs it, or use a password")
    return OidcCode(code=answer["code"], code_verifier=verifier, redirect_uri=redirect_uri, nonce=nonce)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: str, answered: asyncio.Future[dict[str, str]]
) -> None:
    try:
        async with asyncio.timeout(_HEAD_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ", 2)
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        is_ours = method == "GET" and parts.path == _PATH and Secret(query.get("state", "")) == Secret(state)
        body = (_DONE if "code" in query else _FAILED) if is_ours else ""
        writer.write(_response(200 if is_ours else 404, body))
        await writer.drain()
        if is_ours and not answered.done():
            answered.set_result(query)
    except (OSError, ValueError, EOFError, TimeoutError, asyncio.LimitOverrunError):
        pass  # a stranger's connection; the browser's is another
    finally:
        writer.close()


def _response(status: int, body: str) -> bytes:
    head = (
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}\r\ncontent-type: text/html; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\ncache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n"
    )
    return (head + body).encode()
