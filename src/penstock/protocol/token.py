"""The tunnel token: standard base64, with padding, of a small JSON object; the published format and one member of ours.

`{"a": account, "t": tunnel UUID, "s": base64 of the secret, "p": {"edge": ["host:port", …], "ca": [base64 DER, …]}}`

Stock agents ignore `p`; with it a token alone is enough for our agent to find the edge and to know it. Tokens without it,
and with members that are not known here, are accepted.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from penstock.errors import IdentityError
from penstock.secret import Secret

MAX_TOKEN: Final = 16 * 1024
"""Characters. A token with two P-256 CAs and a few edges has under two thousand; environment variables hold this much."""
MAX_EDGES: Final = 32
MAX_CAS: Final = 4
MAX_CA: Final = 4096
"""Bytes of one certificate; RSA-4096 with a long subject has half of that."""
MAX_SECRET: Final = 256
"""Bytes; ours have 32, stock tokens any number."""
MAX_ACCOUNT: Final = 128

_EDGE: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HINT: Final = "copy the whole token again, or reveal a new one; it is one line of base64 without spaces"


@dataclass(frozen=True, slots=True)
class TunnelToken:
    """What an agent needs to register."""

    account: str
    tunnel_id: uuid.UUID
    secret: Secret
    """Base64 text, as in the token; `secret_bytes` is what goes over the wire."""
    edges: tuple[str, ...] = ()
    """`host:port` of each edge the token knows."""
    cas: tuple[bytes, ...] = ()
    """DER of the CA certificates an edge's certificate may come from."""

    def secret_bytes(self) -> bytes:
        """The secret itself: for the registration and for nothing else."""
        return base64.b64decode(self.secret.reveal(), validate=True)

    def encode(self) -> Secret:
        """The token's text, as `parse_token` and stock agents read it."""
        members: dict[str, Any] = {"a": self.account, "t": str(self.tunnel_id), "s": self.secret.reveal()}
        if self.edges or self.cas:
            members["p"] = {"edge": list(self.edges), "ca": [base64.b64encode(der).decode() for der in self.cas]}
        return Secret(base64.b64encode(json.dumps(members, separators=(",", ":")).encode()).decode())


def parse_token(text: str) -> TunnelToken:
    """A token out of its text (space around it is dropped); IdentityError says what is wrong without showing any of it."""
    text = text.strip()
    if not text:
        _refuse("the tunnel token is empty", hint="set TUNNEL_TOKEN, or the file that holds it")
    if len(text) > MAX_TOKEN:
        _refuse("the tunnel token is too long")
    members = _members(text)
    account, tunnel = members.get("a"), members.get("t")
    if not isinstance(account, str) or not 0 < len(account) <= MAX_ACCOUNT or not account.isprintable():
        _refuse("the tunnel token has no account (member a)")
    if not isinstance(tunnel, str) or _UUID.fullmatch(tunnel) is None:
        _refuse("the tunnel token has no tunnel id (member t)")
    secret = members.get("s")
    if not isinstance(secret, str) or not 0 < len(_base64(secret, "secret (member s)")) <= MAX_SECRET:
        _refuse("the tunnel token has no secret (member s)")
    edges, cas = parse_place(members.get("p"))
    return TunnelToken(account=account, tunnel_id=uuid.UUID(tunnel), secret=Secret(secret), edges=edges, cas=cas)


def _members(text: str) -> dict[str, object]:
    try:
        members: object = json.loads(_base64(text, "text"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        _refuse("the tunnel token is not JSON inside")
    if not isinstance(members, dict):
        _refuse("the tunnel token is not an object inside")
    return cast(dict[str, object], members)


def parse_place(member: object) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """Edges and CAs out of our own member `p`; broken is worse than absent, since the agent would then trust someone else."""
    if member is None:
        return (), ()
    if not isinstance(member, dict):
        _refuse("the tunnel token's member p is malformed")
    fields = cast(dict[str, object], member)
    edges = _strings(fields.get("edge"), MAX_EDGES, "edges (member p.edge)")
    cas = tuple(_base64(ca, "CA certificate (member p.ca)") for ca in _strings(fields.get("ca"), MAX_CAS, "CAs (member p.ca)"))
    for edge in edges:
        match = _EDGE.fullmatch(edge)
        if match is None or not 0 < int(match[1]) <= 65_535 or (edge[0] == "[" and not _is_ipv6(edge[1 : edge.index("]")])):
            _refuse("the tunnel token names an edge that is not host:port")
    if not all(ca.startswith(b"\x30") and len(ca) <= MAX_CA for ca in cas):
        _refuse("the tunnel token's CA is not a DER certificate")
    return tuple(edges), cas


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _strings(value: object, limit: int, what: str) -> list[str]:
    if value is None:
        return []
    items = cast(list[object], value) if isinstance(value, list) else [None]
    strings = [item for item in items if isinstance(item, str)]
    if len(strings) != len(items) or len(strings) > limit:
        _refuse(f"the tunnel token's {what} are malformed")
    return strings


def _base64(text: str, what: str) -> bytes:
    """Strict: the one alphabet, with its padding, in the one spelling that encoding gives back."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data) != text.encode():
        _refuse(f"the tunnel token's {what} is not base64")
    return data


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Two members of one name mean two readers disagree about which counts."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _refuse(public: str, *, hint: str = _HINT) -> NoReturn:
    raise IdentityError(public, hint=hint)
