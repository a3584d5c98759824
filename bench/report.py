"""The tables of docs/performance.md: figures as measured, targets beside them, and plainly what was not measured."""

from __future__ import annotations

import os
import platform
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from bench.latency import FAR, SLOW_DOWNLOAD, median_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.cost import Costs
    from bench.latency import Beside, Distant
    from bench.load import Result
    from bench.memory import Memory

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
# KiB a stream: idle, and ten seconds after a burst. The proxy's is with callers' certificates.
MEMORY_TARGETS = {"edge": 44, "agent": 8, "proxy": 68}
BURST_FACTOR = 1.5
PACE = 1500
"""Requests a second that every way carries on a machine of two cores."""


@dataclass
class Findings:
    """All that one run measured."""

    requests: int
    rounds: int
    connections: int
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    programs: dict[str, str] = field(default_factory=dict)
    cpu: Costs = field(default_factory=dict)
    cpu_at_a_pace: Costs = field(default_factory=dict)
    bulk: Costs = field(default_factory=dict)
    first_events: dict[str, list[float]] = field(default_factory=dict)
    full: dict[str, Result] = field(default_factory=dict)
    paced: dict[tuple[str, str], Result] = field(default_factory=dict)
    beside_bulk: dict[str, Beside] = field(default_factory=dict)
    far: Distant | None = None
    memory: Memory | None = None


def render(found: Findings) -> str:
    return "\n".join(
        [
            *_circumstances(found),
            "",
            "### CPU time",
            "",
            *_ratios(found),
            "",
            *_hops(found),
            "",
            "### Latency",
            "",
            *_latency(found),
            "",
            *_beside(found),
            "",
            *_streams(found),
            *_memory(found),
        ]
    )


def _circumstances(found: Findings) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found.programs.items())
    now = f"{datetime.now(UTC):%Y-%m-%d}"
    return [
        f"Measured {now} on {machine()}. Beside: {versions or 'no other program'}.",
        f"{found.connections} keep-alive connections, POST of 1 KB, answer of 1 KB: {found.rounds} x {found.requests:,} a way.",
        f"Load average {found.load_before:.1f} before the run. Load generator, all hops, peers and upstream share the cores.",
    ]


# --- CPU --------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One comparison. Of theirs every process counts but an edge of ours; a row without a target has nobody's."""

    name: str
    ours: str
    hops: tuple[str, ...]
    theirs: str
    target: float | None


ENDS = ("edge", "agent")
REQUESTS = (
    Row("proxy : haproxy that ends TLS 1.3 and routes by host", "proxy", ("proxy",), "haproxy", 1.5),
    Row("edge + agent : chisel's two ends", "chain", ENDS, "chisel", 1.0),
    Row("edge + agent, plain HTTP as theirs : chisel's two ends", "link", ENDS, "chisel", 1.0),
    Row("the same : chisel's two ends, haproxy ending callers' TLS", "link", ENDS, "chisel + haproxy", 1.0),
    Row("edge + agent : frp's two ends, TLS on", "chain", ENDS, "frp", 0.8),
    Row("edge + agent, plain HTTP as theirs : frp's two ends", "link", ENDS, "frp", 0.8),
    Row("the same : frp's two ends, frpc ending callers' TLS", "link", ENDS, "frp tls2raw", 0.8),
    Row("the same : frp's two ends, haproxy ending callers' TLS", "link", ENDS, "frp + haproxy", 0.8),
    Row("edge + agent + proxy : frp's two ends, frpc a reverse proxy", "chain", (*ENDS, "proxy"), "frp https2http", None),
    Row("agent : cloudflared behind the same edge", "chain", ("agent",), "cloudflared", 0.6),
)
AT_A_PACE = (
    Row("edge + agent : chisel's two ends", "chain", ENDS, "chisel", 1.0),
    Row("plain HTTP as theirs : chisel's two ends, haproxy ending callers' TLS", "link", ENDS, "chisel + haproxy", 1.0),
    Row("edge + agent : frp's two ends", "chain", ENDS, "frp", 0.8),
    Row("plain HTTP as theirs : frp's two ends, haproxy ending callers' TLS", "link", ENDS, "frp + haproxy", 0.8),
)
PACED = ("chain", "link", *(row.theirs for row in AT_A_PACE))


def _ratios(found: Findings) -> Iterator[str]:
    yield "| | ours | theirs | ratio | target |"
    yield "| --- | --- | --- | --- | --- |"
    for row in REQUESTS:
        yield _row(row, found.cpu, row.name)
    for row in AT_A_PACE:
        yield _row(row, found.cpu_at_a_pace, f"both at {PACE:,} a second: {row.name}")
    one = found.bulk["proxy"]["proxy"]
    yield _ratio("download, proxy : haproxy", one, _of(found.bulk, "haproxy"), 2.0, scale=1, unit="s a GiB", peer="haproxy")


def _row(row: Row, costs: Costs, name: str) -> str:
    one = sum(costs[row.ours][hop] for hop in row.hops)
    return _ratio(name, one, _of(costs, row.theirs), row.target, scale=1e6, unit="µs a request", peer=row.theirs)


def _of(costs: Costs, way: str) -> float | None:
    if way not in costs:
        return None
    return sum(seconds for hop, seconds in costs[way].items() if hop != "edge")


def _ratio(name: str, ours: float, theirs: float | None, target: float | None, *, scale: float, unit: str, peer: str) -> str:
    figure = f"{ours * scale:.{0 if scale > 1 else 2}f} {unit}"
    wanted = f"≤ {target:g}" if target is not None else ""
    if theirs is None:
        return f"| {name} | {figure} | not measured: there was no {peer} | | {wanted} |"
    other = f"{theirs * scale:.{0 if scale > 1 else 2}f} {unit}"
    return f"| {name} | {figure} | {other} | {ours / theirs:.2f} | {wanted} |"


def _hops(found: Findings) -> Iterator[str]:
    yield "| way | process | CPU a request | CPU a GiB downloaded |"
    yield "| --- | --- | --- | --- |"
    for way, hops in found.cpu.items():
        for hop, seconds in hops.items():
            gib = found.bulk.get(way, {}).get(hop)
            yield f"| {way} | {hop} | {seconds * 1e6:.0f} µs | {f'{gib:.2f} s' if gib is not None else ''} |"


# --- latency ----------------------------------------------------------------------------------------------------------


def _latency(found: Findings) -> Iterator[str]:
    direct, chain = found.full["directly"], found.full["chain"]
    yield "| | directly | through the chain |"
    yield "| --- | --- | --- |"
    yield f"| requests a second, full load | {direct.rate:,.0f} | {chain.rate:,.0f} |"
    for percent in (50, 99):
        yield f"| p{percent}, full load | {direct.percentile(percent):.2f} ms | {chain.percentile(percent):.2f} ms |"
    for pace, text in (("half", "half of its own full load"), ("light", "a twentieth of its own full load")):
        for percent in (50, 99):
            one, other = found.paced[pace, "directly"], found.paced[pace, "chain"]
            yield f"| p{percent}, {text} | {one.percentile(percent):.2f} ms | {other.percentile(percent):.2f} ms |"
    if found.far is not None:
        later = found.far.later
        yield f"| p50, callers {FAR * 1e3:.0f} ms away from the edge, light load | | {later.percentile(50):.1f} ms |"
        first = f"{found.far.first_call * 1e3:.0f} ms: {found.far.round_trips:.1f} round trips"
        yield f"| a process's first call from there, control (near) asked first | | {first} |"


def _beside(found: Findings) -> Iterator[str]:
    slow = f"{SLOW_DOWNLOAD * 8 // 1_000_000} Mbit/s"
    yield f"| p99 of small requests at the same pace | alone | beside one download | beside one at {slow} |"
    yield "| --- | --- | --- | --- |"
    for way, beside in found.beside_bulk.items():
        alone = beside.alone.percentile(99)
        others = [
            f"{ms:.2f} ms: {ms / alone:.1f} times" for ms in (beside.with_bulk.percentile(99), beside.with_slow.percentile(99))
        ]
        target = " (target: ≤ 2 times)" if way == "chain" else ""
        yield f"| {way}{target} | {alone:.2f} ms | {' | '.join(others)} |"


def _streams(found: Findings) -> Iterator[str]:
    base = median_ms(found.first_events["directly"])
    yield "| first event of a stream | median | later than directly |"
    yield "| --- | --- | --- |"
    for way, seconds in found.first_events.items():
        yield f"| {way} | {median_ms(seconds):.2f} ms | {median_ms(seconds) - base:.2f} ms |"


# --- memory -----------------------------------------------------------------------------------------------------------


def _memory(found: Findings) -> Iterator[str]:
    yield ""
    yield "### Memory"
    yield ""
    if found.memory is None:
        yield "Not measured in this run (`--streams 0`)."
        return
    memory = found.memory
    yield f"| {memory.streams:,} idle event streams | a stream | target | 10 s after 200 KB on each | target |"
    yield "| --- | --- | --- | --- | --- |"
    for hop, target in MEMORY_TARGETS.items():
        after = f"{memory.after_burst[hop]:.0f} KiB | ≤ {target * BURST_FACTOR:.0f} KiB"
        yield f"| {hop} | {memory.idle[hop]:.0f} KiB | ≤ {target} KiB | {after} |"
    yield ""
    pauses = ", ".join(f"{hop} {seconds * 1e3:.0f} ms" for hop, seconds in memory.pauses.items())
    yield f"Longest garbage collection of each process meanwhile: {pauses}."


# --- the page ---------------------------------------------------------------------------------------------------------


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    version = f"CPython {platform.python_version()}, {ssl.OPENSSL_VERSION.rsplit(' ', 3)[0]}"
    return f"{psutil.cpu_count()} cores of {model}, {platform.system()} {platform.release().split('-')[0]}, {version}"


def replace_table(file: Path, table: str) -> None:
    text = file.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    file.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")
