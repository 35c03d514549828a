"""Ends a worker that hangs, so that whoever runs it starts it again.

Kubernetes does so by a probe; Docker and process managers on a host only look whether there is a process.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

from celery import bootsteps

from app import health
from app.steps import Alive, folder

__all__ = ["Watchdog"]

# Seconds for which a worker has to look dead, beyond those that make it look so (`health.alive`). What it ran runs again
# elsewhere then, so this is no reflex; and after a suspended laptop wakes up, the first ticks are yet to come.
PATIENCE = 90.0
# Seconds between two looks.
LOOK = 5.0
# Seconds to get a line out.
LAST_WORDS = 5.0

logger = logging.getLogger("warren.watchdog")


class Watchdog(bootsteps.StartStopStep):
    """A thread that asks what the probe asks. For the prefork pool only: other pools may run tasks in the event loop."""

    requires = (Alive, "celery.worker.components:Pool")

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._over = Event()
        self.enabled = worker.pool_cls.__module__ == "celery.concurrency.prefork"

    def start(self, worker: Any) -> None:
        Thread(target=self._watch, args=(worker,), name="watchdog", daemon=True).start()

    def close(self, worker: Any) -> None:
        """A worker that stops gets the time that its tasks need, from who stops it."""
        self._over.set()

    stop = close
    terminate = close

    def _watch(self, worker: Any) -> None:
        place = str(folder())
        alive_at = monotonic()
        while not self._over.wait(LOOK):
            if health.alive(place):
                alive_at = monotonic()
            elif monotonic() - alive_at > PATIENCE:
                end(worker)
                return


def end(worker: Any) -> None:
    """Ends this process and those of its pool at once, since a loop that hangs can't end itself."""
    # What hangs may be the log: nobody reads what it is written to.
    last_words = Thread(target=say, daemon=True)
    last_words.start()
    last_words.join(LAST_WORDS)
    # Without them first, tasks would go on beside those that take their places.
    for process in tuple(worker.pool._pool._pool):
        with suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
    os._exit(1)


def say() -> None:
    logger.critical("the event loop has stood still too long: ending, to be started again; what ran here runs again")
    logging.shutdown()
