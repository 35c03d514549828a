"""What the thread that follows the log tells the others: changes as they happen."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, TypeAlias

__all__ = ["Change", "Hub"]

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
