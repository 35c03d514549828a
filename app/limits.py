"""Which time limits hold for a task: its own, those of who sends it, or else those of the pool that runs it.

Facts here hold for Celery 5.7; tests/integration/test_pools.py holds them against real workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps

from app.config import PoolLimit
from app.pools import soft_limit

__all__ = ["Limits", "leave_to_the_pool"]


def leave_to_the_pool(headers: Any = None, **_: Any) -> None:
    """Takes the limits that nobody gave out of a message that is about to be sent (signal ``before_task_publish``)."""
    if limits := (headers or {}).get("timelimit"):
        headers["timelimit"] = [None if isinstance(limit, PoolLimit) else limit for limit in limits]


class Limits(bootsteps.StartStopStep):
    """Has a hard limit hold that is shorter than the soft one, which the worker's pool would wait for first."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        worker = consumer.controller
        consumer.pool.apply_async = ordered(consumer.pool.apply_async, worker.soft_time_limit, worker.time_limit)


def ordered(apply_async: Callable[..., Any], usual_soft: float | None, usual_hard: float | None) -> Callable[..., Any]:
    """``apply_async`` of a pool, which gets a soft limit before the hard one, both in seconds."""

    def run(*args: Any, soft_timeout: float | None = None, timeout: float | None = None, **options: Any) -> Any:
        soft, hard = soft_timeout or usual_soft, timeout or usual_hard
        if soft and hard and soft >= hard:
            # Of a limit of one second nothing is left to clean up.
            soft_timeout = max(soft_limit(hard), 0) or hard
        return apply_async(*args, soft_timeout=soft_timeout, timeout=timeout, **options)

    return run
