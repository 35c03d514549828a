"""A worker that can be made to hang, and is soon found out: workers of tests get it with ``--include tests.support.hang``."""

from __future__ import annotations

from threading import Event
from typing import Any

from celery import signals
from celery.worker.control import control_command

from app import health, watchdog

__all__ = ["INCLUDE", "TICK_LIMIT", "hang"]

INCLUDE = ("--include", __name__)

# Seconds, in the place of minutes; a loop that lives touches its file every 5.
TICK_LIMIT = 12


@signals.celeryd_after_setup.connect(weak=False)
def soon(**_: Any) -> None:
    """In that worker, not in the test that names this module."""
    health.TICK_LIMIT = TICK_LIMIT
    watchdog.PATIENCE = 1.0
    watchdog.LOOK = 0.2


@control_command()
def hang(state: Any) -> None:
    """Stops the event loop for good."""
    Event().wait()
