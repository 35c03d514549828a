"""How following the event log goes, for other threads to look at."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Status"]


@dataclass
class Status:
    """How following the log goes. Each field is written by one thread and may be read by any."""

    connected: bool = False
    caught_up: bool = False
    """Whether the log's end was reached, and is not far away now."""
    lag_events: int = 0
    """Events that are in the log and not yet in the history; an estimate while there are many."""
    lag_seconds: float = 0.0
    """Age of the last event that is in the history, while there are later ones in the log."""
    error: str | None = None
    """Why nothing is taken from the log now, for example that the volume is full."""
    tasks: int = 0
    suspect: str | None = None
    """What a search stumbled over that looks like damage of the history's file, until that has been inspected."""
    malformed: dict[str, int] = field(default_factory=dict)
    """Messages and events that were skipped, by kind."""
