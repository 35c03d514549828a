"""Events as Celery sends them, and messages of the log that hold them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from app.events.decoder import Decoder
from app.events.decoder import Event as Heard
from app.monitor.history.store import History, Told

__all__ = [
    "BASE",
    "HOSTILE_TEXTS",
    "NAME",
    "WORKER",
    "Event",
    "body",
    "event",
    "heard",
    "heartbeat",
    "life",
    "messages",
    "new_id",
    "take",
]

Event: TypeAlias = dict[str, Any]

# Long ago, so that no clock is behind it.
BASE = 1_700_000_000.0
NAME = "app.tasks.add"
WORKER = "celery@one"
# Texts that would break a line, a terminal or an encoding, or that are longer than anybody wants.
HOSTILE_TEXTS = (
    "line one\nline two\r\n",
    "\x1b[2J\x07\x00",
    "\u2028\u2029\x85\x0b\x0c",
    "\u202eright to left",
    "\ud800 lone",
    'quote " and \\ backslash=',
    "x" * 100_000,
    "",
)


def new_id() -> str:
    return str(uuid.uuid4())


def event(kind: str, at: float, uuid: str, hostname: str = WORKER, **fields: Any) -> Event:
    """One event; ``at`` in seconds after BASE, or since 1970 where that is later."""
    stamp = at if at >= BASE else BASE + at
    return {
        "type": f"task-{kind}",
        "uuid": uuid,
        "hostname": hostname,
        "timestamp": stamp,
        "pid": 7,
        "clock": 1,
        **fields,
    }


def life(
    uuid: str | None = None,
    at: float = 0.0,
    end: str = "succeeded",
    *,
    name: str = NAME,
    worker: str = WORKER,
    queue: str = "default",
    args: str = "(1, 2)",
    runtime: float = 2.0,
    wait: float = 1.0,
    **ending: Any,
) -> list[Event]:
    """All events of a task that was sent at ``at`` and is received ``wait`` seconds later. ``end``: its last event."""
    uuid = uuid or new_id()
    told = {"name": name, "args": args, "kwargs": "{}", "retries": 0, "root_id": uuid, "parent_id": None}
    told |= {key: ending.pop(key) for key in ("root_id", "parent_id", "eta") if key in ending}
    received = at + wait
    last: dict[str, Event] = {
        "succeeded": {"runtime": runtime, "result": "3"},
        "failed": {"exception": "ValueError('no')", "traceback": "Traceback:\nValueError: no\n"},
        "retried": {"exception": "TimeoutError()", "traceback": "Traceback:\nTimeoutError\n"},
    }
    events = [
        event("sent", at, uuid, "gen1@client", queue=queue, **told),
        event("received", received, uuid, worker, **told),
        event("started", received + 0.25, uuid, worker),
        event(end, received + 0.25 + runtime, uuid, worker, **{**last.get(end, {}), **ending}),
    ]
    kinds = [one["type"].removeprefix("task-") for one in events]
    return events[: kinds.index(end) + 1]


def heartbeat(at: float, worker: str = WORKER, kind: str = "heartbeat", **fields: Any) -> Event:
    stamp = at if at >= BASE else BASE + at
    about = {"active": 0, "processed": 5, "freq": 2.0, "pid": 7, "loadavg": [0.5, 0.25, 0.1]}
    software = {"sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux"}
    return {"type": f"worker-{kind}", "hostname": worker, "timestamp": stamp, **about, **software, **fields}


def body(events: Event | Sequence[Event]) -> bytes:
    """As Celery's own serializer writes it."""
    return json.dumps(events).encode()


def messages(events: Iterable[Event], first: int = 0, batch: int = 24) -> list[tuple[int, bytes]]:
    """Messages of ``batch`` events each, with their offsets from ``first`` on."""
    every = list(events)
    batches = [every[start : start + batch] for start in range(0, len(every), batch)]
    return [(first + number, body(one)) for number, one in enumerate(batches)]


def heard(*events: Event) -> list[Heard]:
    """The events as the history has them."""
    return Decoder().events(0, body(events))


def take(history: History, *events: Event) -> list[Told]:
    """Takes the events into the history, as the log's next message."""
    first = history.position.offset + 1 if history.position else 0
    return history.write(messages(events, first, batch=max(1, len(events))))
