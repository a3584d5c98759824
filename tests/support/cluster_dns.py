"""The names of a cluster: its Services below `cluster.local`, and what their `external-dns` annotations say.

A cluster has CoreDNS and, for the names outside, external-dns; neither can be had as a program of its own everywhere. This
answers A questions from what the API server says at that moment.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

_ANNOTATION = "external-dns.alpha.kubernetes.io/hostname"
_HEADER = struct.Struct("!6H")
_A = 1
_NO_SUCH_NAME = 3


@contextmanager
def cluster_dns(address: str, api: httpx2.Client) -> Iterator[None]:
    """Answer on port 53 of `address`."""
    with _Server(address, api) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingUDPServer):
    daemon_threads = True

    def __init__(self, address: str, api: httpx2.Client) -> None:
        self.api = api
        super().__init__((address, 53), _Question)

    def addresses(self, name: str) -> list[str] | None:
        """Of a name; None where there is no such name."""
        for service in self._items("services"):
            metadata = service["metadata"]
            path = f"{metadata['name']}.{metadata['namespace']}.svc.cluster.local"
            if name in {path, metadata.get("annotations", {}).get(_ANNOTATION)}:
                address = service["spec"].get("clusterIP", "None")
                return [address] if address != "None" else self._endpoints(metadata["namespace"], metadata["name"])
        return None

    def _endpoints(self, namespace: str, name: str) -> list[str]:
        found = [e for e in self._items(f"namespaces/{namespace}/endpoints") if e["metadata"]["name"] == name]
        subsets = [subset for one in found for subset in one.get("subsets", [])]
        return [one["ip"] for subset in subsets for one in subset.get("addresses", [])]

    def _items(self, what: str) -> list[dict[str, Any]]:
        return list(self.api.get(f"/api/v1/{what}").raise_for_status().json()["items"])


class _Question(socketserver.BaseRequestHandler):
    request: tuple[bytes, socket.socket]
    server: _Server

    def handle(self) -> None:
        data, reply = self.request
        number, *_ = _HEADER.unpack_from(data)
        name, end = _name(data)
        (kind,) = struct.unpack_from("!H", data, end)
        found = self.server.addresses(name)
        answers = (found or []) if kind == _A else []
        flags = 0x8580 | (_NO_SUCH_NAME if found is None else 0)
        records = b"".join(struct.pack("!HHHIH", 0xC00C, _A, 1, 0, 4) + socket.inet_aton(one) for one in answers)
        header = _HEADER.pack(number, flags, 1, len(answers), 0, 0)
        reply.sendto(header + data[_HEADER.size : end + 4] + records, self.client_address)


def _name(data: bytes) -> tuple[str, int]:
    """The question's name, and where it ends."""
    labels: list[str] = []
    at = _HEADER.size
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower(), at + 1
