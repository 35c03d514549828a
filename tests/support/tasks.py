"""Tasks that no user should have: workers of tests get them with ``--include tests.support.tasks``."""

from __future__ import annotations

import os
import signal

from celery import shared_task

__all__ = ["INCLUDE", "die", "send_sleep"]

INCLUDE = ("--include", __name__)


@shared_task
def die() -> None:
    """Ends its process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task
def send_sleep(seconds: float, queue: str) -> str:
    """Sends a task as tasks do it, with the code at hand; its id."""
    from app.tasks import sleep

    return str(sleep.apply_async((seconds,), queue=queue).id)
