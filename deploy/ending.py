"""How a signal ends this process: by Python's own end, which closes what is open and leaves a terminal as it was."""

from __future__ import annotations

from typing import Any

__all__ = ["leave"]


def leave(number: int, _: Any) -> None:
    """The handler of a signal: ends with a shell's exit code for it."""
    raise SystemExit(128 + number)
