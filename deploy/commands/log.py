"""What the event log itself tells of one task, for when the monitor can't be asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from deploy.commands.control import connected
from deploy.errors import ExitCode, WarrenError
from deploy.session import Session

if TYPE_CHECKING:
    from app.eventlog import Unavailable

__all__ = ["as_known", "events_of", "folded"]


def as_known(s: Session, error: Unavailable) -> WarrenError:
    """Why the log can't be read, in words for who types commands."""
    # The text is of the container that it was written for; here the password is kept elsewhere.
    said = str(error)
    if said.endswith(wrong := ": correct it in CELERY_BROKER_URL"):
        said = f"{said.removesuffix(wrong)} {s.endpoints.refused('ops', 'rabbitmq')}"
    if not error.lasting:
        said += f"; {s.endpoints.no_answer}"
    return WarrenError(said, ExitCode.BROKER)


def events_of(s: Session, id_: str) -> list[dict[str, Any]]:
    """The task's events, in the order in which they were logged.

    Raises:
        WarrenError: the log can't be read (exit code 5), or has none (7).
    """
    from app.eventlog import Unavailable, find

    s.runner.show(f"read the stream celery.events for {id_}  # as user ops")
    with connected(s, "ops"):
        try:
            events = find(s.broker_url("ops"), id_)
        except Unavailable as error:
            raise as_known(s, error) from error
    if not events:
        raise WarrenError(
            f"no event of the last {s.settings.events_max_age} mentions {id_}; was it sent through this broker?",
            ExitCode.UNKNOWN,
        )
    return events


def folded(id_: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    """``events`` of a task as the monitor's API would tell of it."""
    from app.events.decoder import Decoder
    from app.monitor.history.clock import rfc3339
    from app.monitor.history.task import CODES, PENDING, STATES, STEPS, Task, apply, as_id, id_text

    task = Task(key=0, id=as_id(id_), state=PENDING)
    hosts = [""]
    name = queue = None
    told = [event for event in events if event.get("type") in CODES]
    for event in Decoder().events(0, json.dumps(told).encode()):
        host = event.hostname or ""
        if host not in hosts:
            hosts.append(host)
        name, queue = name or event.name, queue or event.queue
        apply(task, event, CODES[event.type], hosts.index(host))
    return {
        "id": id_,
        "name": name or "unknown",
        "state": STATES[task.state],
        "attention": None,
        "attention_since": None,
        "queue": queue,
        "worker": hosts[task.worker or 0] or None,
        **{field: getattr(task, field) for field in ("args", "kwargs", "retries", "attempts")},
        **{field: rfc3339(getattr(task, field) or None) for field in ("time", "sent", "received", "started")},
        "finished": rfc3339(task.finished),
        **{field: getattr(task, field) for field in ("eta", "expires", "runtime", "wait", "result", "exception")},
        "root": id_text(task.root) if task.root else id_,
        "parent": id_text(task.parent) if task.parent else None,
        "traceback": task.traceback,
        "sender": hosts[task.sender or 0] or None,
        "steps": [
            {"state": STEPS[state], "time": rfc3339(stamp), "worker": hosts[host] or None, "note": said or None}
            for state, stamp, host, said in task.steps
        ],
        "children": [],
    }
