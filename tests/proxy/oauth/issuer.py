"""An authorization server as far as a proxy meets one: keys, tokens, and two documents over TLS."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.proxy.rig import Link
from tests.support import ca

from penstock.proxy.oauth_settings import OAuthConfig
from penstock.tls import contexts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

CA = ca.ca("issuer-ca")
AUDIENCE = f"https://{ca.HOST}/mcp"


@dataclass
class Key:
    """A signing key and how it is published."""

    kid: str = "k1"
    algorithm: str = "ES256"
    private: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    published: dict[str, Any] = field(default_factory=dict)

    @property
    def jwk(self) -> dict[str, Any]:
        kind = jwt.get_algorithm_by_name(self.algorithm)
        shown: Any = kind.to_jwk(self.private.public_key(), as_dict=True)
        return {**shown, "kid": self.kid, "use": "sig", "alg": self.algorithm, **self.published}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        headers = {name: value for name, value in {"kid": self.kid, "typ": "at+jwt", **header}.items() if value is not None}
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers=headers)


def rsa_key(bits: int = 2048, **changes: Any) -> Key:
    return Key(algorithm="RS256", private=rsa.generate_private_key(65537, bits), **changes)


def ed_key() -> Key:
    return Key(algorithm="EdDSA", private=ed25519.Ed25519PrivateKey.generate())


def claims(issuer: str, **changes: Any) -> dict[str, Any]:
    """Good ones; None takes a claim out."""
    now = int(time.time())
    values = {"iss": issuer, "aud": AUDIENCE, "sub": "someone", "iat": now, "exp": now + 300, "scope": "read write", **changes}
    return {name: value for name, value in values.items() if value is not None}


@dataclass
class Issuer:
    """Serves `documents` by path; `asked` is every path that was asked for."""

    url: str = ""
    keys: list[Key] = field(default_factory=lambda: [Key()])
    documents: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def token(self, key: Key | None = None, **changes: Any) -> str:
        return (key or self.keys[0]).sign(claims(self.url, **changes))

    def settings(self, folder: Path, **changes: Any) -> dict[str, Any]:
        file = folder / "issuer.crt"
        file.write_text(CA.certificate_pem)
        return {
            "issuer": self.url,
            "audience": AUDIENCE,
            "allowed_ips": ["127.0.0.0/8"],
            "ca_file": str(file),
            "include_system_cas": False,
            **changes,
        }

    def config(self, folder: Path, **changes: Any) -> OAuthConfig:
        return OAuthConfig.model_validate(self.settings(folder, **changes))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        try:
            while True:
                head, _ = await link.request()
                path = head.split(b" ")[1].decode()
                self.asked.append(path)
                await self.release.wait()
                found = self.documents.get(path)
                if path == "/keys" and found is None:
                    found = {"keys": [key.jwk for key in self.keys]}
                body = found if isinstance(found, bytes) else json.dumps(found).encode()
                status = b"404 Not Found" if found is None else b"200 OK"
                await link.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def issuing(path: str = "") -> AsyncGenerator[Issuer]:
    """One whose OpenID metadata leads to its keys; its identifier ends in `path`."""
    issuer = Issuer()
    issuer.release.set()
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0, ssl=contexts.control_server(ca.server(CA, "localhost")))
    origin = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    issuer.url = origin + path
    issuer.documents[f"{path}/.well-known/openid-configuration"] = {"issuer": issuer.url, "jwks_uri": f"{origin}/keys"}
    try:
        yield issuer
    finally:
        server.close()
