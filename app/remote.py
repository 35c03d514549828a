"""Celery's commands of remote control that do only a part of what they say, made whole. For workers only.

Facts here hold for Celery 5.7; tests/integration/test_menu.py holds them against real workers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from app.settings import from_environment

__all__ = ["mend"]


class OwnLimits(NamedTuple):
    """What a task's code and the settings say."""

    soft: float | None
    hard: float | None
    request: Any


def mend() -> None:
    """Puts ours in the place of `time_limit`, `rate_limit` and `stats`, also for Flower's buttons."""
    from celery.worker.control import Panel

    Panel.data["stats"] = stats
    Panel.data["time_limit"] = time_limit
    Panel.data["rate_limit"] = rate_limit


# By the task's name, of those whose time limits were changed.
usual: dict[str, OwnLimits] = {}


def time_limit(state: Any, task_name: str = "", hard: float | None = None, soft: float | None = None, **_: Any) -> Any:
    """Limits the tasks that this worker takes from now on; without both limits, as before. None gets beyond the pool's own.

    Celery's own sets attributes of the task, which its worker read when it connected. And a sender that has the task's
    code writes the usual limits into each message, which go before the task's.
    """
    from celery.worker import control

    if task_name in state.app.tasks:
        task = state.app.tasks[task_name]
        before = usual.setdefault(task_name, OwnLimits(task.soft_time_limit, task.time_limit, task.Request))
        changed = bool(soft or hard)
        if hard and (most := state.app.conf.task_time_limit):
            # Stop grace and the broker's patience are reckoned from it.
            hard = min(hard, most)
        soft, hard = soft or before.soft, hard or before.hard
        if soft and hard and soft > hard:
            # Pool processes that are made from now on inherit both, and Celery sends no task with such limits.
            soft = None
        task.Request = limited(before.request, soft, hard) if changed else before.request
    answer = control.time_limit(state, task_name, hard=hard, soft=soft)
    if "ok" in answer:
        consumer = state.consumer
        consumer.strategies[task_name] = state.app.tasks[task_name].start_strategy(state.app, consumer)
    return answer


def limited(base: Any, soft: float | None, hard: float | None) -> Any:
    """A task's class of requests, for which these limits go before those that came with the message."""
    from celery.utils.imports import symbol_by_name

    class Limited(symbol_by_name(base)):  # type: ignore[misc]
        @property
        def time_limits(self) -> tuple[float | None, float | None]:
            return hard, soft

        @time_limits.setter
        def time_limits(self, _: Any) -> None:
            pass

    return Limited


def stats(state: Any, **arguments: Any) -> dict[str, Any]:
    """As Celery's, and which pool the worker belongs to (what Celery calls a pool is how it runs tasks)."""
    from celery.worker import control

    return {**control.stats(state, **arguments), "worker_pool": from_environment().pool}


def rate_limit(state: Any, task_name: str = "", rate_limit: Any = None, **_: Any) -> Any:
    """As Celery's, which leaves the tasks that it holds back already to the limit of before: for an hour, if that was 1/h."""
    from celery.worker import control

    consumer = state.consumer
    before = consumer.task_buckets.get(task_name)
    answer = control.rate_limit(state, task_name, rate_limit)
    if "ok" in answer and before is not None:
        bucket = consumer.task_buckets[task_name]
        while before.contents:
            request, tokens = before.pop()
            if bucket is None:
                consumer._limit_move_to_pool(request)
            else:
                consumer._limit_task(request, bucket, tokens)
    return answer
