"""An identity provider of a test's own: keys, assertions signed with them, and a place where its key set is published."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from tests.support import ca

from penstock.net.listen import listen_tls
from penstock.tls import certs, contexts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ISSUER = "https://idp.example.com"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass
class Idp:
    """One signing key, P-256 unless said otherwise."""

    kid: str = "k1"
    algorithm: str = "ES256"
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    issuer: str = ISSUER

    @classmethod
    def rsa(cls, bits: int = 2048, algorithm: str = "RS256", kid: str = "k1") -> Idp:
        return cls(kid, algorithm, rsa.generate_private_key(65537, bits))

    @property
    def jwk(self) -> dict[str, Any]:
        to_jwk = ECAlgorithm.to_jwk if isinstance(self.key, ec.EllipticCurvePrivateKey) else RSAAlgorithm.to_jwk
        return {**to_jwk(self.key.public_key(), as_dict=True), "kid": self.kid}

    def sign(self, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """An assertion that any rule would take, but for what `claims` changes; None takes a claim away."""
        now = time.time()
        body = {
            "iss": self.issuer,
            "sub": "system:ci",
            "aud": "https://penstock.example.com",
            "iat": now,
            "exp": now + 600,
            **claims,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(body, self.key, algorithm=self.algorithm, headers={"kid": self.kid, **(header or {})})


@dataclass
class Site:
    """Where documents are published over HTTPS: what is at each path, how often it was asked for, and a fault."""

    port: int
    ca_pem: str
    documents: dict[str, bytes | tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hangs: bool = False
    kept: list[_Answer] = field(default_factory=list["_Answer"])

    def resume(self) -> None:
        """Answer after all, whoever asked meanwhile."""
        self.hangs = False
        for one in self.kept:
            one.answer()
        self.kept.clear()

    def publish(self, *idps: Idp, path: str = "/jwks") -> None:
        self.documents[path] = json.dumps({"keys": [idp.jwk for idp in idps]}).encode()

    def url(self, path: str = "") -> str:
        return f"https://localhost:{self.port}{path}"


@asynccontextmanager
async def site(name: str = "localhost") -> AsyncIterator[Site]:
    """A small HTTPS server with a certificate of its own CA."""
    authority = ca.ca()
    pair = ca.server(authority, name)
    made = Site(0, authority.certificate_pem)
    listener = await listen_tls("127.0.0.1", 0, lambda: _Answer(made), context=contexts.control_server(pair))
    made.port = listener.addresses[0][1]
    try:
        yield made
    finally:
        listener.close()


class _Answer(asyncio.Protocol):
    def __init__(self, site: Site) -> None:
        self._site = site
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # pyright: ignore[reportAttributeAccessIssue]

    def data_received(self, data: bytes) -> None:
        self._data += data
        if b"\r\n\r\n" not in self._data:
            return
        if self._site.hangs:
            self._site.kept.append(self)
        else:
            self.answer()

    def answer(self) -> None:
        if self._transport is None:
            return
        path = self._data.split(b" ")[1].decode()
        self._site.asked.append(path)
        found = self._site.documents.get(path, (404, b"{}"))
        status, body = found if isinstance(found, tuple) else (200, found)
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nlocation: /elsewhere\r\nconnection: close\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._transport.close()


__all__ = ["GRANT", "ISSUER", "Idp", "Site", "certs", "site"]
