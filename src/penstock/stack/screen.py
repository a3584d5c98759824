"""What a program that starts roles shows: progress on stderr while it starts, the result on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from penstock.stack.proof import Proof


class Screen:
    """Talks to the person in front of it."""

    def __init__(self) -> None:
        self.talk = Console(stderr=True, highlight=False, soft_wrap=True)
        self.data = Console(highlight=False, soft_wrap=True, emoji=False)  # a server's text is shown as it is

    def step(self, text: str) -> None:
        """One thing that is done."""
        self.talk.print(f"[green]✓[/] {text}" if self.talk.is_terminal else f"  {text}")

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self.talk.print(f"[yellow]![/] {text}" if self.talk.is_terminal else f"! {text}")

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
