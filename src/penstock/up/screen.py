"""What `up` shows besides: three things to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.stack import screen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.up.options import Options


class Screen(screen.Screen):
    """Talks to the person in front of it."""

    def next_steps(self, options: Options, url: str) -> None:
        """Three commands to paste into another terminal."""
        penstock, environment = _command("penstock"), _environment(options)
        python = shlex.quote(
            str(Path(sys.executable).relative_to(Path.cwd())) if _is_below_here(sys.executable) else sys.executable
        )
        first = f"call a tool     {environment}{penstock} call {url} hello name=you"
        if not options.has_sample:  # its tools are not ours to call
            first = f"list its tools  {environment}{penstock} tools {url}"
        script = (
            "import asyncio, penstock.client as p\n"
            "async def main():\n"
            f"    async with p.mcp_session('{url}') as s: print([t.name for t in (await s.list_tools()).tools])\n"
            "asyncio.run(main())"
        )
        self.data.print("\nNext, in another terminal:", markup=False)
        self.data.print(f"\n  1. {first}", markup=False)
        self.data.print(f'  2. from Python     {environment}{python} -c "{script}"', markup=False)
        if options.has_sample:
            own = f"{penstock} up --route my=http://127.0.0.1:9000"
            self.data.print(f"  3. your own server {own}   (stop this one first)", markup=False)
        self.data.print()

    def try_again(self, options: Options, urls: Mapping[str, str]) -> None:
        """After a proof that failed: how to see whether it has been put right."""
        self.talk.print("\nThe tunnel stands. When it is put right, in another terminal:", markup=False)
        for url in urls.values():
            self.talk.print(f"  {_environment(options)}{_command('penstock')} tools {url}", markup=False)


def _environment(options: Options) -> str:
    profile = options.folder / "profile.json"
    return "" if profile == Path(".penstock/profile.json") else f"PENSTOCK_PROFILE={shlex.quote(str(profile))} "


def _command(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) == str(beside):
        return name
    if _is_below_here(str(beside)):
        return shlex.quote(str(beside.relative_to(Path.cwd())))
    return shlex.quote(str(beside)) if beside.exists() else name


def _is_below_here(path: str) -> bool:
    return Path(path).is_relative_to(Path.cwd())
