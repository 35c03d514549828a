"""A worker that can be made to hang, and is soon found out: workers of tests get it with ``--include tests.support.hang``."""

from __future__ import annotations

from threading import Event
from typing import Any

from celery.worker.control import control_command

from app import health, watchdog

__all__ = ["INCLUDE", "hang"]

INCLUDE = ("--include", __name__)

# Seconds, in the place of minutes; a loop that lives touches its file every 5.
health.TICK_LIMIT = 12
watchdog.PATIENCE = 1.0
watchdog.LOOK = 0.2


@control_command()
def hang(state: Any) -> None:
    """Stops the event loop for good."""
    Event().wait()
