"""Writes the monitor's lines, as fast as events are taken in: by hand what :mod:`app.monitor.lines` does in general.

Both say the same of any event. Building a record and turning it into text takes as long as all of the rest together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, Literal

import msgspec

from app.events.decoder import Event
from app.monitor.history.clock import rfc3339
from app.monitor.history.store import Told
from app.monitor.lines import (
    FIELDS,
    JSON_ONLY,
    STATES,
    TEXT_LIMIT,
    as_json,
    as_text,
    build,
    printable,
    shorten,
    tidy,
    word,
)

__all__ = ["Printer"]

# Names of tasks and workers whose form is kept: those of any deployment, and no more if each task has its own.
KEPT = 4_096

SHOWN = {kind: tuple(field for field in fields if field not in JSON_ONLY) for kind, fields in FIELDS.items()}

encode = msgspec.json.Encoder().encode


class Printer:
    """Writes a line for each change of a task's state to a file descriptor, standard output as a rule.

    It writes past Python's buffers: what is handed over is written when this returns, and a pipe that nobody empties
    can't hold a lock that the end of the process needs.
    """

    def __init__(self, format_: Literal["text", "json"], descriptor: int = 1) -> None:
        self._line: Callable[[Event, str], str] = json_line if format_ == "json" else text_line
        self._descriptor = descriptor

    def write(self, told: Iterable[Told]) -> None:
        """Raises OSError where the lines can't be written."""
        line = self._line
        lines = [line(event, name) for event, task, name, _ in told if task is not None]
        if not lines:
            return
        lines.append("")
        rest = memoryview("\n".join(lines).encode("utf-8", "backslashreplace"))
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def general(event: Event, name: str) -> dict[str, Any]:
    """The record of an event."""
    time = rfc3339(event.timestamp) or "unknown"
    return build(event.type, event.uuid or "", name, event.hostname, time, partial(getattr, event))


def json_line(event: Event, name: str) -> str:
    record = general(event, name)
    line = encode(record)
    return line.decode() if line.isascii() else as_json(record)


@lru_cache(KEPT)
def head(kind: str, name: str) -> str:
    return f"Status: {STATES[kind]}[{printable(shorten(name, TEXT_LIMIT))}] ID "


@lru_cache(KEPT)
def sender(kind: str, host: str | None) -> str:
    return f" {'sender' if kind == 'task-sent' else 'worker'}={word(tidy(host))}"


def text_line(event: Event, name: str) -> str:
    kind = event.type
    uuid = event.uuid or ""
    if len(uuid) > TEXT_LIMIT or not uuid.isprintable():
        return as_text(general(event, name))
    line = head(kind, name) + uuid + sender(kind, event.hostname)
    for field in SHOWN[kind]:
        value = getattr(event, field)
        if value is not None:
            if type(value) is str:
                if value not in {"()", "{}"}:
                    plain = value and len(value) <= TEXT_LIMIT and value.isprintable()
                    if not plain or " " in value or '"' in value or "=" in value:
                        value = word(tidy(value))
                    line += f" {field}={value}"
            elif value != 0 or field != "retries":
                line += f" {field}={word(tidy(value))}"
    return f"{line} {rfc3339(event.timestamp) or 'unknown'}"
