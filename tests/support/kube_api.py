"""etcd from the path and a given `kube-apiserver` as processes, with certificates of a test's own CA."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from tests.support import ca

from penstock.tls import certs
from penstock.up.ports import choose_free

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

ISSUER = "https://kubernetes.default.svc"
ADMIN_TOKEN = "admin-token"
SERVICES = "10.96.0.0/16"
READY_SECONDS = 60.0


@dataclass(frozen=True)
class ApiServer:
    """Where it listens, and the CA of its certificate; the CA and the key of service accounts are in the folder."""

    port: int
    ca_pem: str


def start_api_server(
    running: ExitStack,
    folder: Path,
    program: str,
    *options: str,
    address: str = "127.0.0.1",
    names: Sequence[str] = (),
) -> ApiServer:
    """Not ready yet; it ends with `running`. Without options that say otherwise it listens on `address`, with RBAC."""
    authority = ca.ca()
    pair = ca.server(authority, "localhost", "127.0.0.1", *names)
    signing = certs.make_rsa_key(2048)
    public = signing.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    files = {
        "tls.crt": pair.certificate_pem,
        "tls.key": pair.key_pem.reveal(),
        "sa.key": certs.key_to_pem(signing).reveal(),
        "sa.pub": public.decode(),
        "tokens.csv": f'{ADMIN_TOKEN},admin,admin,"system:masters"\n',
        "ca.pem": authority.certificate_pem,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    ports = choose_free()
    store, peers, port = (one.port for one in (ports.control, ports.callers, ports.agents))
    start(running, folder, "etcd", [
        "etcd", "--data-dir", "etcd", "--unsafe-no-fsync",
        f"--listen-client-urls=http://127.0.0.1:{store}", f"--advertise-client-urls=http://127.0.0.1:{store}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-cluster=default=http://127.0.0.1:{peers}",
    ])  # fmt: skip
    start(running, folder, "apiserver", [
        program, f"--etcd-servers=http://127.0.0.1:{store}",
        f"--advertise-address={address}", f"--secure-port={port}",
        "--cert-dir=pki", "--tls-cert-file=tls.crt", "--tls-private-key-file=tls.key",
        f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=RBAC", "--token-auth-file=tokens.csv",
        f"--service-account-issuer={ISSUER}", "--service-account-key-file=sa.pub",
        "--service-account-signing-key-file=sa.key", *options,
    ])  # fmt: skip
    return ApiServer(port, authority.certificate_pem)


def start(running: ExitStack, folder: Path, name: str, command: list[str]) -> None:
    """A process that writes NAME.log in its folder and ends with `running`."""
    log = running.enter_context((folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    running.callback(process.wait)
    running.callback(process.kill)
