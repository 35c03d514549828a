"""Bootsteps that keep the worker's health files (read by `app/health.py`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import bootsteps

from app.results import RPCBackend
from app.settings import from_environment

__all__ = ["Alive", "Ready"]

# Seconds between two ticks: six are missed before a worker counts as wedged (health.TICK_LIMIT).
TICK = 5.0


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

    def start(self, consumer: Any) -> None:
        RPCBackend.worker_pid = os.getpid()
        self.file.touch()

    def stop(self, consumer: Any) -> None:
        self.file.unlink(missing_ok=True)

    def shutdown(self, consumer: Any) -> None:
        self.file.unlink(missing_ok=True)
