"""What a program that starts roles shows: progress on stderr while it starts, the result on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from penstock.errors import printable

if TYPE_CHECKING:
    from penstock.stack.proof import Proof


class Screen:
    """Talks to the person in front of it."""

    def __init__(self) -> None:
        self.talk = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self.data = Console(highlight=False, soft_wrap=True, emoji=False)  # a server's text is shown as it is

    def step(self, text: str) -> None:
        """One thing that is done."""
        self._say("✓" if self.talk.is_terminal else " ", "green", text)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self._say("!", "yellow", text)

    def proof(self, name: str, url: str, proof: Proof) -> None:
        """The answer that came through the tunnel."""
        self.data.print(f"\n{name}: {proof.question} → {proof.answer}", markup=False)
        self.data.print(
            f"  {proof.called_ms:.1f} ms through edge, agent and proxy (and {proof.connected_ms:.0f} ms to connect)\n  {url}",
            markup=False,
        )

    def staying(self) -> None:
        """Nothing more to say until Ctrl-C."""
        self.talk.print("Up. Ctrl-C stops it.")

    def _say(self, mark: str, colour: str, text: str) -> None:
        # No markup in it, and nothing that a terminal obeys: it holds addresses in brackets, and what platforms answer.
        self.talk.print(Text.assemble((mark, colour), f" {printable(text)}"))
