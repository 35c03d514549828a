"""One line for each change of a task's state, for people or for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

from app.eventlog import Event
from app.monitor.names import Names

__all__ = ["FIELDS", "JSON_ONLY", "STATES", "as_json", "as_text", "build", "record"]

# A task's state after each event. PENDING is how Celery calls a task that no worker has reported yet.
STATES = {
    "task-sent": "PENDING",
    "task-received": "RECEIVED",
    "task-started": "STARTED",
    "task-succeeded": "SUCCESS",
    "task-failed": "FAILURE",
    "task-revoked": "REVOKED",
    "task-retried": "RETRY",
    "task-rejected": "REJECTED",
    # No states of Celery's: what the monitor finds by itself, and attempts that were cut off.
    "task-cancelled": "CANCELLED",
    "task-unclaimed": "UNCLAIMED",
    "task-stalled": "STALLED",
    "task-orphaned": "ORPHANED",
}

# What of an event is shown, where it is there.
FIELDS = {
    "task-sent": ("queue", "args", "kwargs", "retries", "eta", "expires", "root_id", "parent_id"),
    "task-received": ("args", "kwargs", "retries", "eta", "expires", "root_id", "parent_id"),
    "task-started": (),
    "task-succeeded": ("runtime", "result"),
    "task-failed": ("exception", "traceback"),
    "task-revoked": ("terminated", "signum", "expired"),
    "task-retried": ("exception", "traceback"),
    "task-rejected": ("requeue",),
    "task-cancelled": (),
    "task-unclaimed": ("queue",),
    "task-stalled": (),
    "task-orphaned": (),
}

# For machines only: people read these in Flower.
JSON_ONLY = {"traceback", "root_id", "parent_id"}

# Characters of one value. A text line stays readable; a JSON line with its two or three long values stays below 16 KiB,
# where Docker's log driver cuts lines.
TEXT_LIMIT = 500
JSON_LIMIT = 4000

Record: TypeAlias = dict[str, Any]


def time_of(event: Event) -> str:
    """When it happened, in UTC, to the millisecond."""
    stamp = event.get("timestamp")
    try:
        moment = datetime.fromtimestamp(float(stamp), UTC)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        return "unknown"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tidy(value: Any) -> Any:
    """``value`` as JSON can hold it, not too long."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return shorten(text, JSON_LIMIT)


def shorten(text: str, limit: int) -> str:
    """The first half and the last quarter, where what went wrong stands, of a long text."""
    if len(text) <= limit:
        return text
    return f"{text[: limit * 2 // 3]} ... {text[-(limit // 4) :]}"


def record(event: Event, names: Names) -> Record | None:
    """What is told about an event, or None for one that changes no task's state."""
    uuid = event.get("uuid")
    if event["type"] not in STATES or not isinstance(uuid, str):
        return None
    return build(event["type"], uuid, names.of(event), event.get("hostname"), time_of(event), event.get)


def build(kind: str, uuid: str, name: str, host: Any, time: str, value: Callable[[str], Any]) -> Record:
    """The record of an event of type ``kind``, whose other fields ``value`` gives."""
    state = STATES[kind]
    result: Record = {"state": state, "task": shorten(name, TEXT_LIMIT), "id": shorten(uuid, TEXT_LIMIT)}
    # "sent" comes from whoever sent the task, all else from a worker.
    result["sender" if state == "PENDING" else "worker"] = tidy(host)
    for field in FIELDS[kind]:
        # No arguments and a first try go without saying.
        if (
            (found := value(field)) is not None
            and not (field == "retries" and found == 0)
            and found not in ("()", "{}")
        ):
            result[field] = tidy(found)
    result["time"] = time
    return result


def as_json(of: Record) -> str:
    # ASCII, since what counts as the end of a line among the other characters is a matter of taste.
    return json.dumps(of, ensure_ascii=True, separators=(",", ":"))


def printable(text: str) -> str:
    """``text`` without anything that could start a line, move the cursor or hide what it stands beside."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def word(value: Any) -> str:
    """``value`` as one word, quoted where it would not be one."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    text = printable(shorten(str(value), TEXT_LIMIT))
    if text and not any(char in text for char in ' "='):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def as_text(of: Record) -> str:
    shown = {key: value for key, value in of.items() if key not in {"state", "task", "id", "time", *JSON_ONLY}}
    fields = "".join(f" {key}={word(value)}" for key, value in shown.items())
    return f"Status: {of['state']}[{printable(of['task'])}] ID {printable(of['id'])}{fields} {of['time']}"
