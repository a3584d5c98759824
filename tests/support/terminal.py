"""A person's shell, for pages whose commands are typed as they stand."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.command import PENSTOCK, environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECONDS = 400.0  # of one block: images are built and pods become ready in some


def of_a_newcomer(home: Path, **variables: str) -> dict[str, str]:
    """The environment of somebody who has installed `penstock` and nothing else of it."""
    return environment(home, **variables) | {"PATH": f"{PENSTOCK.rpartition('/')[0]}:{os.environ['PATH']}"}


class Terminal:
    """One shell that stays: where they went, what they set and defined holds for what is typed next.

    `changes` says what is the reader's own in a page, and what it is here. `shell` is the command that becomes the shell;
    one that is elsewhere reads what is typed, and writes what is said, in the folder `notes`.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        changes: Mapping[str, str] | None = None,
        shell: Sequence[str] = ("sh",),
        notes: Path | None = None,
    ) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.changes = dict(changes or {})
        self._notes = tempfile.TemporaryDirectory(prefix="terminal-", dir=notes)
        self._typed = 0
        self._shell = subprocess.Popen(
            shell,
            cwd=folder,
            env=self.environment or None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def changed(self, text: str) -> str:
        """A page's text with this reader's own in it."""
        if not self.changes:
            return text
        return re.sub("|".join(map(re.escape, self.changes)), lambda found: self.changes[found[0]], text)

    def type(self, *blocks: str, check: bool = True) -> str:
        """What the blocks' commands say. The first that fails ends the shell, and AssertionError tells what it said; without
        `check` it ends a shell below this one, and what was said is the answer all the same."""
        return "".join([self._type(block, check=check) for block in blocks])

    def start(self, block: str) -> None:
        """Type what stays until the terminal is closed."""
        self._send(f"set -eu; {self._line(block)}")

    @property
    def said(self) -> str:
        """What the last block's commands have said by now."""
        file = Path(self._notes.name, f"said-{self._typed}")
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    @property
    def is_open(self) -> bool:
        """Whether the shell is there: it ends with the first command that fails."""
        return self._shell.poll() is None

    def _type(self, block: str, *, check: bool) -> str:
        line = self._line(block)
        self._send(f"set -eu; {line}; set +e" if check else f"(set -eu; {line})")
        assert self._answers(), f"{block}\n{self.said}"
        return self.said

    def _line(self, block: str) -> str:
        """Reads the block; what its commands read is not what is typed next."""
        self._typed += 1
        text, said = (Path(self._notes.name, f"{name}-{self._typed}") for name in ("text", "said"))
        text.write_text(self.changed(block), encoding="utf-8")
        return f". {text} </dev/null >{said} 2>&1"

    def _send(self, line: str) -> None:
        assert self.is_open, "the shell ended with an earlier command"
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}; echo\n".encode())
        self._shell.stdin.flush()

    def _answers(self) -> bool:
        """Whether it has done what was typed last, and is there for more."""
        assert self._shell.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._shell.stdout, selectors.EVENT_READ)
            return bool(waiting.select(SECONDS)) and os.read(self._shell.stdout.fileno(), 1) != b""

    def close(self) -> None:
        """Hang up: whatever was started in it and still runs ends too."""
        if self.is_open:
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()
        self._notes.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def type_once(text: str, folder: Path, variables: Mapping[str, str]) -> str:
    """What commands say that somebody types who sits down for no more than that."""
    with Terminal(folder, of_a_newcomer(folder, **variables)) as terminal:
        return terminal.type(text)
