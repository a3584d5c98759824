"""The tables of docs/performance.md: figures as measured, targets beside them, and plainly what was not measured."""

from __future__ import annotations

import os
import platform
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

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


def _ratios(found: Findings) -> Iterator[str]:
    yield "| | ours | theirs | ratio | target |"
    yield "| --- | --- | --- | --- | --- |"
    for name, ours, way, theirs, target in (
        ("proxy : haproxy that ends TLS 1.3 and routes by host", ("proxy", "proxy"), "haproxy", "haproxy", 1.5),
        ("edge + agent : chisel's two ends", ("chain", "edge", "agent"), "chisel", "", 1.0),
        ("edge + agent, plain HTTP as theirs : chisel's two ends", ("link", "edge", "agent"), "chisel", "", 1.0),
        ("edge + agent : frp's two ends, TLS on", ("chain", "edge", "agent"), "frp", "", 0.8),
        ("edge + agent, plain HTTP as theirs : frp's two ends", ("link", "edge", "agent"), "frp", "", 0.8),
        ("agent : cloudflared behind the same edge", ("chain", "agent"), "cloudflared", "cloudflared", 0.6),
    ):
        one = sum(found.cpu[ours[0]][hop] for hop in ours[1:])
        yield _ratio(name, one, _of(found.cpu, way, theirs), target, scale=1e6, unit="µs a request", peer=way)
    for peer, target in (("chisel", 1.0), ("frp", 0.8)):
        name = f"edge + agent, both at {PACE:,} a second : {peer}'s two ends"
        one = sum(found.cpu_at_a_pace["chain"][hop] for hop in ("edge", "agent"))
        yield _ratio(name, one, _of(found.cpu_at_a_pace, peer, ""), target, scale=1e6, unit="µs a request", peer=peer)
    one = found.bulk["proxy"]["proxy"]
    yield _ratio("download, proxy : haproxy", one, _of(found.bulk, "haproxy", ""), 2.0, scale=1, unit="s a GiB", peer="haproxy")


def _of(costs: Costs, way: str, hop: str) -> float | None:
    if way not in costs:
        return None
    return costs[way][hop] if hop else sum(costs[way].values())


def _ratio(name: str, ours: float, theirs: float | None, target: float, *, scale: float, unit: str, peer: str) -> str:
    figure = f"{ours * scale:.{0 if scale > 1 else 2}f} {unit}"
    if theirs is None:
        return f"| {name} | {figure} | not measured: there was no {peer} | | ≤ {target:g} |"
    other = f"{theirs * scale:.{0 if scale > 1 else 2}f} {unit}"
    return f"| {name} | {figure} | {other} | {ours / theirs:.2f} | ≤ {target:g} |"


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
