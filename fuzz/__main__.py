"""`python -m fuzz [TARGET …] [--seconds N]`: each target for so long; ends with 1 at the first input that breaks one."""

from __future__ import annotations

import argparse
import sys
import time

from hypothesis import HealthCheck, given, settings

from fuzz.targets import TARGETS

_ROUND = 2000  # inputs between two looks at the clock


def run(name: str, seconds: float) -> int:
    """How many inputs were tried; the target's own error when one breaks it."""
    tried = 0
    target = TARGETS[name]

    @settings(max_examples=_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def check(drawn: object) -> None:
        nonlocal tried, end
        tried += 1
        if time.monotonic() < end:
            try:
                target.check(drawn)
            except BaseException:
                end = float("inf")  # what is found is made small, however long that takes
                raise

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check()
    return tried


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.targets) - TARGETS.keys())
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    for name in arguments.targets or TARGETS:
        print(f"{name}: {run(name, arguments.seconds)} inputs, none broke it", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
