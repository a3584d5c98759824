"""A TLS handshake in memory, without loop or socket."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.tls.contexts import TLSContext


@dataclass
class Handshake:
    """Both ends after the handshake, or what each of them said against it."""

    client: ssl.SSLObject
    server: ssl.SSLObject
    client_error: ssl.SSLError | None = None
    server_error: ssl.SSLError | None = None


def shake(client: TLSContext, server: TLSContext, hostname: str | None, session: ssl.SSLSession | None = None) -> Handshake:
    """Let the two speak until both are done or one refuses; a refusal's alert is delivered."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    result = Handshake(
        client.wrap_bio(to_client, to_server, server_side=False, server_hostname=hostname, session=session),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(6):
        result.client_error = result.client_error or _step(result.client)
        result.server_error = result.server_error or _step(result.server)
    return result


def _step(end: ssl.SSLObject) -> ssl.SSLError | None:
    try:
        end.do_handshake()
        end.read(1)  # TLS 1.3: a server's refusal of the client, and tickets, come after the client's own end
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError as exc:
        return exc
    return None
