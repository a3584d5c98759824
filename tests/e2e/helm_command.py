"""`helm template | install | upgrade | rollback | uninstall` over Helm's own engine: as much of the command as the guides use.

Runs where the engine is (`tests.support.charts`), for a Helm that is no package of any registry a test may use.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import helm_python  # of the environment that runs this
import yaml  # the same

SECONDS = 300  # as the command's own default


def main() -> None:
    parser = argparse.ArgumentParser(prog="helm")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("template", "install", "upgrade", "rollback", "uninstall"):
        one = commands.add_parser(command)
        one.add_argument("release")
        one.add_argument("-n", "--namespace", default="default")
        if command in {"rollback", "uninstall"}:
            continue
        one.add_argument("chart")
        one.add_argument("-f", "--values", action="append", default=[])
        one.add_argument("--set", action="append", default=[])
        if command != "template":
            one.add_argument("--wait", action="store_true")
        if command == "install":
            one.add_argument("--create-namespace", action="store_true")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except helm_python.HelmError as exc:
        sys.exit(f"Error: {exc}")


def run(arguments: argparse.Namespace) -> None:
    if arguments.command == "template":
        with helm_python.Chart.load(arguments.chart) as chart:
            rendered = chart.render(values_of(arguments), name=arguments.release, namespace=arguments.namespace)
        for name, text in rendered.items():
            if not name.endswith("NOTES.txt"):
                print(f"---\n# Source: {name}\n{text}")  # noqa: T201 - the answer
        return
    with helm_python.Config(namespace=arguments.namespace) as engine:
        if arguments.command == "uninstall":
            engine.uninstall(arguments.release, timeout=SECONDS)
            return
        if arguments.command == "rollback":
            engine.rollback(arguments.release, timeout=SECONDS)
            return
        how: dict[str, Any] = {"timeout": SECONDS, "wait": "watcher" if arguments.wait else "hookOnly"}
        if arguments.command == "install":
            how["create_namespace"] = arguments.create_namespace
            how["namespace"] = arguments.namespace
        getattr(engine, arguments.command)(arguments.chart, arguments.release, values_of(arguments), **how)


def values_of(arguments: argparse.Namespace) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for file in arguments.values:
        merge(values, yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {})
    for setting in arguments.set:
        path, _, text = setting.partition("=")
        value: Any = yaml.safe_load(text)
        for key in reversed(path.split(".")):
            value = {key: value}
        merge(values, value)
    return values


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


if __name__ == "__main__":
    main()
