"""Starts the chain as processes, loads it, and writes the table."""

from __future__ import annotations

import argparse
import platform
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import psutil
from tests.support.chain import Chain, stop_process

from bench.load import Connection, Result, full_load, paced_load, request
from penstock.client.streams import TunnelStreams
from penstock.net import loop
from penstock.net.dial import dial_tcp

HOPS = ("edge", "agent", "proxy")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each of the four runs")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--write", type=Path, default=Path("docs/performance.md"), help="the file whose table is replaced")
    arguments = parser.parse_args()
    table = loop.run(measure(arguments.seconds, arguments.connections))
    print(table)
    replace_table(arguments.write, table)


async def measure(seconds: float, connections: int) -> str:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        upstream = Upstream(folder)
        try:
            async with Chain(folder, {"echo": upstream.url}) as chain:
                return await compare(chain, upstream, seconds, connections)
        finally:
            upstream.stop()


async def compare(chain: Chain, upstream: Upstream, seconds: float, connections: int) -> str:
    host = f"echo.{chain.stack.domain}"
    streams = TunnelStreams(chain.access)

    async def through(connection: Connection) -> None:
        connection.take((await (await streams.open(host)).start_tls()).transport)

    async def directly(connection: Connection) -> None:
        connection.take(await dial_tcp("127.0.0.1", upstream.port))

    processes = {hop: psutil.Process(chain.roles[hop].process.pid) for hop in HOPS}
    processes["load generator"] = psutil.Process()
    try:
        await full_load(through, request(host), connections=connections, seconds=1.0)  # warm: windows grown, code paths seen
        direct = await full_load(directly, request("upstream"), connections=connections, seconds=seconds)
        before = {hop: cpu(process) for hop, process in processes.items()}
        chained = await full_load(through, request(host), connections=connections, seconds=seconds)
        used = {hop: (cpu(process) - before[hop]) / chained.requests * 1e6 for hop, process in processes.items()}
        direct_half = await paced_load(
            directly, request("upstream"), connections=connections, seconds=seconds, rate=direct.rate / 2
        )
        chained_half = await paced_load(through, request(host), connections=connections, seconds=seconds, rate=chained.rate / 2)
        light = await paced_load(through, request(host), connections=connections, seconds=seconds / 2, rate=chained.rate / 20)
    finally:
        await streams.aclose()
    peak = {hop: peak_memory(process) for hop, process in processes.items()}
    return render(upstream, connections, seconds, (direct, chained, direct_half, chained_half, light), used, peak)


def render(
    upstream: Upstream,
    connections: int,
    seconds: float,
    results: tuple[Result, Result, Result, Result, Result],
    used: dict[str, float],
    peak: dict[str, float],
) -> str:
    direct, chained, direct_half, chained_half, light = results
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}.",
        f"{connections} keep-alive connections, POST of 400 bytes, answer of 1 KB, {seconds:g} s a run.",
        f"The upstream is {upstream.kind}.",
        "Everything shares the cores: load generator, three hops and upstream.",
        "",
        "| | directly | through the chain | ratio |",
        "| --- | --- | --- | --- |",
        f"| requests a second, full load | {direct.rate:,.0f} | {chained.rate:,.0f} | {chained.rate / direct.rate:.2f} |",
    ]
    for name, one, other in (
        ("p50, full load", direct.percentile(50), chained.percentile(50)),
        ("p99, full load", direct.percentile(99), chained.percentile(99)),
        ("p50, half of its own full load", direct_half.percentile(50), chained_half.percentile(50)),
        ("p99, half of its own full load", direct_half.percentile(99), chained_half.percentile(99)),
    ):
        lines.append(f"| {name} | {one:.2f} ms | {other:.2f} ms | {other / one:.1f} |")
    lines += [
        f"| p50, a twentieth of the chain's full load | | {light.percentile(50):.2f} ms | |",
        f"| p99, a twentieth of the chain's full load | | {light.percentile(99):.2f} ms | |",
        "",
        "| hop | CPU a request | peak memory |",
        "| --- | --- | --- |",
        *(f"| {hop} | {used[hop]:.0f} µs | {peak[hop]:.0f} MiB |" for hop in used),
    ]
    return "\n".join(lines)


class Upstream:
    """nginx where it is installed, else our own."""

    def __init__(self, folder: Path) -> None:
        nginx = shutil.which("nginx")
        self.kind = "nginx" if nginx else "a small asyncio server (nginx is not installed)"
        if nginx:
            self.port = free_port()
            (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=self.port, body="x" * 1024))
            self.process = subprocess.Popen(
                [nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "e.log")]
            )
        else:
            self.port = free_port()
            self.process = subprocess.Popen([sys.executable, "-m", "bench.upstream", str(self.port)], stdout=subprocess.PIPE)
            assert self.process.stdout is not None
            self.process.stdout.readline()
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        stop_process(self.process)


NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; keepalive_requests 1000000000; keepalive_timeout 600s;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 "{body}"; }} }}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def peak_memory(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return process.memory_info().rss / 2**20


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    version = f"CPython {platform.python_version()}, {ssl.OPENSSL_VERSION.rsplit(' ', 3)[0]}"
    return f"{psutil.cpu_count()} cores of {model}, {platform.system()} {platform.release().split('-')[0]}, {version}"


BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def replace_table(file: Path, table: str) -> None:
    text = file.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    file.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
