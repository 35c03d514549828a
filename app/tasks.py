"""Your tasks. Start from these, or delete them: the platform needs none of them, though `make up` tries `add`."""

from __future__ import annotations

import time

from celery import shared_task
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)


@shared_task
def add(x: float, y: float) -> float:
    """The sum of two numbers."""
    return x + y


@shared_task
def sleep(seconds: float) -> float:
    """Does nothing for a number of seconds: something to revoke, to scale for, or to kill a worker under."""
    time.sleep(seconds)
    return seconds


@shared_task
def fail(message: str = "as you asked") -> None:
    """Fails, to see what a traceback looks like in the monitor and in Flower.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(message)


@shared_task(bind=True, max_retries=5)
def retry(self, succeed_on: int = 3, delay: float = 1) -> int:  # type: ignore[no-untyped-def]
    """Fails and tries again after ``delay`` seconds, and succeeds on attempt ``succeed_on``, whose number it returns."""
    attempt = int(self.request.retries) + 1
    if attempt < succeed_on:
        logger.info("attempt %d of %d: trying again in %s s", attempt, succeed_on, delay)
        raise self.retry(countdown=delay)
    return attempt
