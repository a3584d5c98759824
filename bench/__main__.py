"""`python -m bench`: what the chain costs and how long it takes, against the same client without it and against peers."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench import report
from bench.cost import cost_a_gib, cost_a_request, cost_at_a_pace
from bench.latency import beside_bulk, far_away, first_events
from bench.load import full_load, paced_load, post
from bench.memory import idle_streams
from bench.programs import GIVEN
from bench.ways import ways
from penstock.net import loop

CONNECTIONS = 32
STREAMING = ("directly", "proxy", "chain", "haproxy")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="requests a way in each round")
    parser.add_argument("--rounds", type=int, default=4, help="how often the ways take turns")
    parser.add_argument("--streams", type=int, default=5000, help="idle event streams; 0 leaves them out")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help=f"NAME is one of {', '.join(GIVEN)}")
    parser.add_argument("--write", type=Path, default=Path("docs/performance.md"), help="the file whose table is replaced")
    arguments = parser.parse_args()
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    if unknown := peers.keys() - set(GIVEN):
        parser.error(f"--peer {min(unknown)}: the peers that are given by path are {', '.join(GIVEN)}")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        paths = {name: Path(path).resolve() for name, path in peers.items()}
        findings = loop.run(measure(Path(folder), paths, arguments.requests, arguments.rounds, arguments.streams))
    table = report.render(findings)
    print(table)
    report.replace_table(arguments.write, table)


async def measure(folder: Path, peers: dict[str, Path], requests: int, rounds: int, streams: int) -> report.Findings:
    for name in ("main", "far", "idle"):
        (folder / name).mkdir()
    found = report.Findings(requests=requests, rounds=rounds, connections=CONNECTIONS)
    async with ways(folder / "main", peers) as (all_ways, programs):
        found.programs = programs.versions()
        found.cpu = await cost_a_request(all_ways.values(), connections=CONNECTIONS, requests=requests, rounds=rounds)
        alike = [all_ways[name] for name in report.PACED if name in all_ways]
        found.cpu_at_a_pace = await cost_at_a_pace(
            alike, connections=CONNECTIONS, rate=report.PACE, seconds=requests / report.PACE, rounds=rounds
        )
        bulky = [all_ways[name] for name in ("proxy", "chain", "haproxy") if name in all_ways]
        found.bulk = await cost_a_gib(bulky, downloads=8, rounds=rounds)
        streaming = [all_ways[name] for name in STREAMING if name in all_ways]
        found.first_events = await first_events(streaming, count=100)
        direct, chain = all_ways["directly"], all_ways["chain"]
        for way in (direct, chain):
            full = await full_load(way.open, post(way.echo), connections=CONNECTIONS, requests=requests)
            found.full[way.name] = full
            for name, share in (("half", 2), ("light", 20)):
                rate = full.rate / share if way is chain else found.full["directly"].rate / share
                found.paced[name, way.name] = await paced_load(
                    way.open, post(way.echo), connections=CONNECTIONS, seconds=6, rate=rate
                )
        apart = [way for way in all_ways.values() if way.source is not None]
        found.beside_bulk = await beside_bulk(apart, rate=found.full["chain"].rate / 20, seconds=4, rounds=rounds)
        upstream = programs.ports["upstream"]
        found.far = await far_away(folder / "far", upstream, rate=found.full["chain"].rate / 20, seconds=4)
        if streams:
            found.memory = await idle_streams(folder / "idle", upstream, count=streams)
    return found


if __name__ == "__main__":
    main()
