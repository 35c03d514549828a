"""A task as the API, the commands and handlers show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from app.monitor.history.clock import rfc3339
from app.monitor.history.task import ATTENTION, PENDING, RECEIVED, STATES, STEPS, Step, Task, id_text

__all__ = ["UNKNOWN", "full", "summary"]

# The name of a task whose "sent" and "received" events were never heard.
UNKNOWN = "unknown"

Word: TypeAlias = Callable[[int | None], str | None]


def summary(task: Task, word: Word) -> dict[str, Any]:
    """What lists show of a task. ``word`` turns a number into its word."""
    id_ = id_text(task.id)
    return {
        "id": id_,
        "name": word(task.name) or UNKNOWN,
        "state": STATES[task.state],
        "attention": ATTENTION[task.attention] or None,
        "attention_since": rfc3339(task.attention_since),
        "queue": word(task.queue),
        "worker": word(task.worker),
        "args": task.args,
        "kwargs": task.kwargs,
        "retries": task.retries,
        "attempts": task.attempts,
        "time": rfc3339(task.time),
        "sent": rfc3339(min(task.sent, task.received or task.sent) if task.sent else None),
        "received": rfc3339(task.received),
        "started": rfc3339(task.started),
        "finished": rfc3339(task.finished),
        "eta": task.eta,
        "expires": task.expires,
        "runtime": task.runtime,
        "wait": task.wait,
        "result": task.result,
        "exception": task.exception,
        "root": id_text(task.root) if task.root else id_,
        "parent": id_text(task.parent) if task.parent else None,
    }


def full(task: Task, word: Word) -> dict[str, Any]:
    """As :func:`summary`, with traceback, sender and timeline."""
    return summary(task, word) | {"traceback": task.traceback, "sender": word(task.sender), "steps": steps(task, word)}


def steps(task: Task, word: Word) -> list[dict[str, Any]]:
    """The timeline. Celery tells of sending once the broker has the task: a worker that was faster comes after it here."""
    taken: dict[str, float] = {}
    told: dict[str, float] = {}
    for code, stamp, _, note in task.steps:
        if code == RECEIVED:
            taken.setdefault(note, stamp)
        elif code == PENDING:
            told.setdefault(note, stamp)

    def when(step: Step) -> tuple[float, bool]:
        code, stamp, _, note = step
        if code == PENDING:
            # What was sent once more, from dead_letters for example, was not what the worker took the first time.
            return (min(stamp, taken.get(note, stamp)) if stamp == told[note] else stamp), False
        return stamp, True

    shown = []
    attempt = 0
    for step in sorted(task.steps, key=when):
        code, _, worker, text = step
        if code == RECEIVED:
            attempt += 1
            text = f"attempt {attempt}" if attempt > 1 else ""
        shown.append(
            {"state": STEPS[code], "time": rfc3339(when(step)[0]), "worker": word(worker), "note": text or None}
        )
    return shown
