"""The programs that are not ours, as processes on loopback: the upstream, and the peers we are measured against.

Peers in Go are given by path (`--peer chisel=/usr/local/bin/chisel`), as Debian has none of them; haproxy and nginx are
looked for on PATH. Each does the least that carries the same requests.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.chain import stop_process

GIVEN = ("chisel", "frps", "frpc", "cloudflared")
FOUND = ("haproxy", "nginx")
VERSION_FLAGS = {
    "haproxy": "-v",
    "nginx": "-v",
    "chisel": "--version",
    "frps": "--version",
    "frpc": "--version",
    "cloudflared": "--version",
}


class FrpPorts(NamedTuple):
    """Where frp's callers come in."""

    plain: int
    raw: int
    """TLS, ended by frpc, which passes the bytes inside on (its plugin `tls2raw`)."""
    https: int
    """TLS, passed on by server name and ended by frpc, which is a reverse proxy for the HTTP inside (`https2http`)."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Programs:
    """What was started, and its end."""

    def __init__(self, folder: Path, peers: dict[str, Path]) -> None:
        self.folder = folder
        found = {name: Path(path) for name in FOUND if (path := shutil.which(name))}
        self.paths = found | peers
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}

    def has(self, *names: str) -> bool:
        return all(name in self.paths for name in names)

    def versions(self) -> dict[str, str]:
        """What each one that was started says of itself."""
        return {name: _version(self.paths[name], flag) for name, flag in VERSION_FLAGS.items() if name in self.paths}

    def start(self, program: str, *arguments: str, name: str = "", **environment: str) -> None:
        """`name` tells a process from another of its program."""
        name = name or program
        with (self.folder / f"{name}.out").open("wb") as output:
            self.processes[name] = subprocess.Popen(
                [str(self.paths[program]), *arguments], stdout=output, stderr=output, env={**os.environ, **environment}
            )

    def stop(self) -> None:
        for name, process in self.processes.items():
            if name == "upstream":
                process.kill()  # it has nothing to finish
            stop_process(process, 5.0)

    # --- upstreams ---------------------------------------------------------------------------------------------------

    def start_upstream(self) -> int:
        """Ours: event streams, and everything where nginx is not installed."""
        port = free_port()
        self.paths["upstream"] = Path(sys.executable)
        self.start("upstream", "-m", "bench.upstream", str(port))
        self.ports["upstream"] = port
        return port

    def start_nginx(self) -> int:
        port = free_port()
        file = self.write("nginx.conf", _NGINX.format(folder=self.folder, port=port, body="x" * 1024))
        self.start("nginx", "-c", file, "-p", str(self.folder), "-e", str(self.folder / "nginx.err"))
        return port

    # --- peers -------------------------------------------------------------------------------------------------------

    def start_haproxy(self, pair: str, routes: dict[str, int]) -> int:
        """One thread; ends TLS 1.3 with the proxy's own pair, routes by host, logs a line a request as the proxy does."""
        port = free_port()
        pem = self.write("pair.pem", pair)
        rules = "".join(f"  use_backend b{to} if {{ hdr(host) -i {host} }}\n" for host, to in routes.items())
        backends = "".join(f"backend b{to}\n  server s 127.0.0.1:{to}\n" for to in set(routes.values()))
        file = self.write("haproxy.cfg", _HAPROXY.format(port=port, pem=pem, rules=rules, backends=backends))
        self.start("haproxy", "-db", "-f", file)
        return port

    def start_tls_ends(self, pair: str, callers_ca: Path, entries: list[int]) -> list[int]:
        """haproxy on one thread before ports that speak no TLS: it ends TLS 1.3 with callers' certificates, as our edge does,
        and passes bytes on. A port for each of `entries`.
        """
        pem = self.write("ends.pem", pair)
        ports = [free_port() for _ in entries]
        ends = [_END.format(port=port, pem=pem, ca=callers_ca, to=to) for port, to in zip(ports, entries, strict=True)]
        self.start("haproxy", "-db", "-f", self.write("ends.cfg", _ENDS + "".join(ends)), name="haproxy in front")
        return ports

    def start_chisel(self, upstream: int) -> int:
        """A reverse port: what enters at the server leaves at the client, inside chisel's own SSH."""
        server, entry = free_port(), free_port()
        to = (f"http://127.0.0.1:{server}", f"R:127.0.0.1:{entry}:127.0.0.1:{upstream}")
        self.start("chisel", "server", "--host", "127.0.0.1", "--port", str(server), "--reverse", name="chisel server")
        self.start("chisel", "client", *to, name="chisel client")
        return entry

    def start_frp(self, upstream: int, certificate: Path, key: Path, host: str) -> FrpPorts:
        """Over frp's multiplexed link, TLS on: a TCP port, and two whose callers' TLS frpc ends with the pair given."""
        server, ports = free_port(), FrpPorts(free_port(), free_port(), free_port())
        self.start("frps", "-c", self.write("frps.toml", _FRPS.format(server=server, https=ports.https)))
        settings = _FRPC.format(server=server, ports=ports, upstream=upstream, certificate=certificate, key=key, host=host)
        self.start("frpc", "-c", self.write("frpc.toml", settings))
        return ports

    def start_cloudflared(self, token: str, edge: str, ca_file: Path, url: str) -> int:
        """A stock agent, four links over HTTP/2 as ours; the port of its `/ready`."""
        port = free_port()
        self.start(
            *("cloudflared", "tunnel", "--no-autoupdate", "run", "--url", url),
            HOME=str(self.folder),
            TUNNEL_TOKEN=token,
            TUNNEL_EDGE=",".join([edge] * 4),
            TUNNEL_CACERT=str(ca_file),
            TUNNEL_TRANSPORT_PROTOCOL="http2",
            TUNNEL_NO_PRECHECKS="true",
            TUNNEL_MANAGEMENT_DIAGNOSTICS="false",
            TUNNEL_METRICS=f"127.0.0.1:{port}",
        )
        return port

    def write(self, name: str, text: str) -> str:
        file = self.folder / name
        file.write_text(text)
        return str(file)


def _version(path: Path, flag: str) -> str:
    said = subprocess.run([str(path), flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.+~-]*", said.stdout + said.stderr)
    return found[0] if found else "of unknown version"


_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; keepalive_requests 1000000000; keepalive_timeout 600s;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 "{body}"; }} }}
}}
"""

_HAPROXY = """
global
  nbthread 1
  maxconn 4000
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend tls
  bind 127.0.0.1:{port} ssl crt {pem} ssl-min-ver TLSv1.3
{rules}
{backends}
"""

_ENDS = """
global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"""

_END = """
listen end{port}
  bind 127.0.0.1:{port} ssl crt {pem} ca-file {ca} verify required ssl-min-ver TLSv1.3
  server s 127.0.0.1:{to}
"""

_FRPS = """
bindAddr = "127.0.0.1"
bindPort = {server}
vhostHTTPSPort = {https}
transport.tls.force = true
log.level = "warn"
"""

_FRPC = """
serverAddr = "127.0.0.1"
serverPort = {server}
loginFailExit = false
transport.tls.enable = true
log.level = "warn"

[[proxies]]
name = "plain"
type = "tcp"
localIP = "127.0.0.1"
localPort = {upstream}
remotePort = {ports.plain}

[[proxies]]
name = "raw"
type = "tcp"
remotePort = {ports.raw}
[proxies.plugin]
type = "tls2raw"
localAddr = "127.0.0.1:{upstream}"
crtPath = "{certificate}"
keyPath = "{key}"

[[proxies]]
name = "https"
type = "https"
customDomains = ["{host}"]
[proxies.plugin]
type = "https2http"
localAddr = "127.0.0.1:{upstream}"
crtPath = "{certificate}"
keyPath = "{key}"
"""
