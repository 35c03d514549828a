"""What a command waits for, shown as it goes: a spinner on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

__all__ = ["Progress"]


class Progress:
    """Writes to the error output: what commands print as their answer stays clean."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.status: Status | None = None
        self.shown = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status:
            self.status.stop()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    def waits(self, text: str) -> None:
        """Shows what is waited for now: each text once."""
        if text == self.shown:
            return
        self.shown = text
        if not self.console.is_terminal:
            self.line(text)
        else:
            self.spins(text)

    def spins(self, text: str) -> None:
        """Shows on a terminal what is waited for now; elsewhere the lines that tell what is ready are enough."""
        if not self.console.is_terminal:
            return
        if self.status:
            self.status.update(text)
        else:
            self.status = self.console.status(text)
            self.status.start()
