"""Runs where Helm's engine is: renders values (JSON, one a line on stdin) and answers with the documents as JSON."""

from __future__ import annotations

import json
import sys

import helm_python  # of the environment that runs this


def main() -> None:
    folder = sys.argv[1]
    name = folder.rpartition("/")[2]
    with helm_python.Chart.load(folder) as chart:
        for line in sys.stdin:
            try:
                rendered = chart.render(json.loads(line), name=name, namespace=name)
            except Exception as exc:  # noqa: BLE001 - the engine's refusal is the answer
                answer = {"error": str(exc)}
            else:
                answer = {"documents": rendered}
            print(json.dumps(answer), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
