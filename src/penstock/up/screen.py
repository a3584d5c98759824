"""What `up` shows besides: three things to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.stack import screen

if TYPE_CHECKING:
    from penstock.up.options import Options


class Screen(screen.Screen):
    """Talks to the person in front of it."""

    def next_steps(self, options: Options, url: str) -> None:
        """Three commands to paste into another terminal."""
        penstock = _command("penstock")
        python = shlex.quote(
            str(Path(sys.executable).relative_to(Path.cwd())) if _is_below_here(sys.executable) else sys.executable
        )
        profile = options.folder / "profile.json"
        environment = "" if profile == Path(".penstock/profile.json") else f"PENSTOCK_PROFILE={shlex.quote(str(profile))} "
        call = f"{penstock} call {url} hello name=you" if options.has_sample else f"{penstock} tools {url}"
        script = (
            "import asyncio, penstock.client as p\n"
            "async def main():\n"
            f"    async with p.mcp_session('{url}') as s: print([t.name for t in (await s.list_tools()).tools])\n"
            "asyncio.run(main())"
        )
        self.data.print("\nNext, in another terminal:", markup=False)
        self.data.print(f"\n  1. call a tool     {environment}{call}", markup=False)
        self.data.print(f'  2. from Python     {environment}{python} -c "{script}"', markup=False)
        own = f"{penstock} up --route my=http://127.0.0.1:9000"
        self.data.print(f"  3. your own server {own}   (stop this one first)\n", markup=False)


def _command(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) == str(beside):
        return name
    if _is_below_here(str(beside)):
        return shlex.quote(str(beside.relative_to(Path.cwd())))
    return shlex.quote(str(beside)) if beside.exists() else name


def _is_below_here(path: str) -> bool:
    return Path(path).is_relative_to(Path.cwd())
