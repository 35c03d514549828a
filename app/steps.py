"""Bootsteps that keep the worker's health files (read by `app/health.py`)."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

from celery import bootsteps

from app.results import RPCBackend
from app.settings import from_environment

__all__ = ["Alive", "Ready"]

# Seconds between two ticks: six are missed before a worker counts as wedged (health.TICK_LIMIT).
TICK = 5.0
# Seconds that a worker whose broker takes no messages counts as alive. Alarms are ended by people, who sleep; but one that
# lost its broker meanwhile is not told.
BLOCKED_LIMIT = 6 * 3600.0

logger = logging.getLogger("warren.health")


def folder() -> Path:
    path = Path(from_environment().health_dir)
    path.mkdir(parents=True, exist_ok=True)
    return path


class Alive(bootsteps.StartStopStep):
    """Touches `alive` from the worker's event loop.

    A step of the worker, whose timer entries survive reconnects since Celery 5.7. The loop does not turn while the
    worker looks for its broker; that is what health.py tells from a wedged loop by the absence of `ready`.
    """

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self.file = folder() / "alive"
        # What a killed worker left in the same folder says nothing of this one.
        self.file.unlink(missing_ok=True)
        (self.file.parent / "ready").unlink(missing_ok=True)

    def start(self, worker: Any) -> None:
        self.file.touch()
        self.timer = worker.timer.call_repeatedly(TICK, self.file.touch, priority=10)

    def stop(self, worker: Any) -> None:
        # On a busy host a tick that is due would leave the file of a worker that is gone.
        self.timer.cancel()
        self.file.unlink(missing_ok=True)


class Ready(bootsteps.StartStopStep):
    """Keeps `ready` while the worker consumes. A step of the consumer, which is stopped and started with each connection.

    The last before the event loop: those before it publish and declare, for which Celery waits silently, in the main thread,
    if the broker goes away meanwhile. Such a worker is one without a broker, not a wedged one. And a worker that is ready
    hears a revoke.
    """

    requires = (
        "celery.worker.consumer.tasks:Tasks",
        "celery.worker.consumer.control:Control",
        "celery.worker.consumer.gossip:Gossip",
        "celery.worker.consumer.heart:Heart",
        "celery.worker.consumer.delayed_delivery:DelayedDelivery",
    )

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.file = folder() / "ready"
        self._unblocked = Event()
        self._unblocked.set()

    def start(self, consumer: Any) -> None:
        RPCBackend.worker_pid = os.getpid()
        self.file.touch()
        # No events, no dispatcher.
        for connection in (consumer.connection, getattr(consumer.event_dispatcher, "connection", None)):
            if (transport := getattr(connection, "connection", None)) is not None:
                transport.on_blocked, transport.on_unblocked = self.blocked, self.unblocked

    def stop(self, consumer: Any) -> None:
        self._unblocked.set()
        self.file.unlink(missing_ok=True)

    shutdown = stop

    def blocked(self, reason: str) -> None:
        """The broker takes no messages for lack of memory or disk.

        The event loop waits, in its next heartbeat, until it does. That is not to be taken for a loop that hangs: what
        the worker runs goes on.
        """
        if not self._unblocked.is_set():
            return
        logger.warning("the broker takes no messages, `invoke status` shows why; waiting until it does")
        self._unblocked.clear()
        self.file.unlink(missing_ok=True)
        Thread(target=self._stay_alive, name="blocked", daemon=True).start()

    def unblocked(self) -> None:
        if not self._unblocked.is_set():
            logger.info("the broker takes messages again")
            self._unblocked.set()
            self.file.touch()

    def _stay_alive(self) -> None:
        limit = monotonic() + BLOCKED_LIMIT
        alive = self.file.parent / "alive"
        while not self._unblocked.wait(TICK) and monotonic() < limit:
            alive.touch()
