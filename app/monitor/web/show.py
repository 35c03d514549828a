"""Times, durations and names as the page shows them."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from urllib.parse import quote

from app.monitor.history.clock import read_time
from app.monitor.history.family import walk
from app.monitor.web.sources import FINAL, Json

__all__ = [
    "call",
    "clock",
    "duration",
    "headline",
    "number",
    "parts",
    "path",
    "read_time",
    "short",
    "span",
    "split_name",
    "steps",
    "tree",
]

# For what is not known.
NOTHING = "\N{EN DASH}"
# Seconds. A sender tells that it has sent once the broker has the task, and a worker may be quicker to say that it has it.
QUICK = 1.0
# Levels of a family that are indented; a chain of hundreds would leave the screen.
MOST_INDENTED = 8


def clock(stamp: str | None, day: bool = False) -> str:
    """``13:20:01 UTC``; with its day where it is asked for. The page's script puts it into the reader's time zone."""
    when = read_time(stamp)
    if when is None:
        return NOTHING
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC" if day else "%H:%M:%S UTC")


def duration(seconds: float | None) -> str:
    """``3 ms``, ``0.42 s``, ``12.3 s``, ``2 min 5 s``, ``1 h 3 min``, ``2 d 4 h``; a dash for what is not known."""
    if seconds is None:
        return NOTHING
    if seconds < 0:
        return f"-{duration(-seconds)}"
    for limit, text in (
        (0.0005, "0 ms"),
        (0.0995, f"{seconds * 1000:.0f} ms"),
        (9.995, f"{seconds:.2f} s"),
        (59.95, f"{seconds:.1f} s"),
    ):
        if seconds < limit:
            return text
    whole = round(seconds)
    for unit, below, name, smaller in ((60, 3600, "min", "s"), (3600, 86_400, "h", "min"), (86_400, 0, "d", "h")):
        if whole < below or not below:
            rest = whole % unit // {"s": 1, "min": 60, "h": 3600}[smaller]
            return f"{whole // unit:,} {name}" + (f" {rest} {smaller}" if rest else "")
    return ""


def span(start: str | None, end: str | None) -> float | None:
    """Seconds from one time to another."""
    first, last = read_time(start), read_time(end)
    return (last - first).total_seconds() if first and last else None


def number(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def short(text: str | None, limit: int = 160) -> str:
    line = " ".join((text or "")[: limit * 4].split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def split_name(name: str) -> tuple[str, str]:
    """A task's module and its last part."""
    module, _, last = name.rpartition(".")
    return module, last


def path(id: str) -> str:
    """An id as a part of an address."""
    return quote(id, safe="")


def call(task: Json) -> str:
    """What a list shows of a task's arguments: nothing where there are none."""
    return " ".join(text for text in (task["args"], task["kwargs"]) if text and text not in {"()", "{}", "[]"})


def headline(task: Json) -> str:
    """What became of a task, in a sentence without its end."""
    state, where = str(task["state"]), f" on {task['worker']}" if task["worker"] else ""
    ran = f" after {duration(task['runtime'])}" if task["runtime"] is not None else ""
    if state == "FAILURE" and not ran and (took := span(task["started"], task["finished"])) is not None:
        ran = f" after {duration(took)}"
    words = {
        "PENDING": f"Sent to queue {task['queue']}, not received yet" if task["queue"] else "Sent, not received yet",
        "RECEIVED": f"Received{where}, not started yet",
        "STARTED": f"Running{where}",
        "RETRY": f"Waits for another try, after {task['retries'] or 1}",
        "SUCCESS": f"Succeeded{ran}{where}",
        "FAILURE": f"Failed{ran}{where}",
        "REVOKED": f"Revoked{where}",
        "REJECTED": f"Rejected{where}",
    }
    text = words.get(state, state)
    return f"{text}, in attempt {task['attempts']}" if (task["attempts"] or 0) > 1 else text


def steps(task: Json) -> list[dict[str, Any]]:
    """The timeline: each step with the time since the one before."""
    told = list(task.get("steps") or [])
    for index in range(1, len(told)):
        first, second = told[index - 1], told[index]
        gap = span(first["time"], second["time"])
        if (first["state"], second["state"]) == ("RECEIVED", "PENDING") and gap is not None and gap < QUICK:
            told[index - 1], told[index] = second, first
    found, before = [], None
    for step in told:
        after = span(before, step["time"])
        found.append({**step, "after": None if after is None else max(0.0, after)})
        before = step["time"] or before
    return found


def parts(task: Json) -> list[tuple[str, float, float]]:
    """The shares of a task's life spent waiting and running, from 0 to 100: kind, start, width; empty if not known."""
    begin = task["sent"] or task["received"] or task["started"]
    end = task["finished"] or (task["time"] if task["state"] in FINAL else None)
    total, until_start = span(begin, end), span(begin, task["started"])
    if not total or total <= 0 or until_start is None:
        return []
    waiting = min(100.0, max(0.0, 100 * until_start / total))
    return [("waiting", 0.0, waiting), ("running", waiting, 100 - waiting)]


def tree(family: list[Json]) -> list[tuple[int, Json]]:
    """A family in the order of a tree, each with the levels that it is indented."""
    return [(min(depth, MOST_INDENTED), task) for depth, task in walk(family)]
