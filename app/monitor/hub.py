"""What the thread that follows the log tells the others: changes as they happen, and how it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeAlias

__all__ = ["Change", "Hub", "Status"]

# What happened to a task or worker: "type" is an event's, such as task-failed; the rest as the API has it.
Change: TypeAlias = dict[str, Any]


class Hub:
    """Hands changes to whoever is subscribed, and keeps none."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._wakes: dict[int, Callable[[list[Change]], None]] = {}
        self._next = 0

    @property
    def heard(self) -> bool:
        """Whether anybody is subscribed: making changes for nobody costs."""
        return bool(self._wakes)

    def publish(self, changes: list[Change]) -> None:
        """Calls every subscriber, in this thread."""
        with self._lock:
            wakes = list(self._wakes.values())
        for wake in wakes:
            wake(changes)

    def subscribe(self, wake: Callable[[list[Change]], None]) -> Callable[[], None]:
        """``wake`` is called with each list of changes, in the publisher's thread: it hands over and returns.

        Returns the function that ends the subscription.
        """
        with self._lock:
            self._next += 1
            number = self._next
            self._wakes[number] = wake

        def leave() -> None:
            with self._lock:
                self._wakes.pop(number, None)

        return leave


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
