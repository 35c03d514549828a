"""Tasks that no user should have: workers of tests get them with ``--include tests.support.tasks``."""

from __future__ import annotations

import os
import signal

from celery import shared_task

__all__ = ["INCLUDE", "die"]

INCLUDE = ("--include", __name__)


@shared_task
def die() -> None:
    """Ends its process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
