"""What became of a task, from the event log: rpc:// results reach only the process that sent the task."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from app.monitor.lines import STATES
from deploy.commands.control import connected, task_id
from deploy.errors import ExitCode, WarrenError
from deploy.output import print_json, say
from deploy.session import Session

__all__ = ["outcome", "result"]


def result(s: Session, asked: str, as_json: bool) -> None:
    """The state of a task as the event log tells it: rpc:// results reach only the process that sent the task."""
    from app.eventlog import Unavailable, find

    one = task_id(asked)
    s.runner.show(f"read the stream celery.events for {one}  # as user ops")
    with connected(s, "ops"):
        try:
            events = find(s.broker_url("ops"), one)
        except Unavailable as error:
            # Of the container that it was written for; here it stands in a file.
            said = str(error).replace("CELERY_BROKER_URL", ".warren/secrets/ops; `invoke up` gives it to the broker")
            raise WarrenError(said, ExitCode.BROKER) from error
    if not events:
        raise WarrenError(
            f"no event of the last {s.settings.events_max_age} mentions {one}; was it sent through this broker?",
            ExitCode.UNKNOWN,
        )
    answer = outcome(one, events)
    if as_json:
        print_json(answer)
    else:
        for key, value in answer.items():
            if value not in (None, ""):
                say(f"{key:<10} {in_words(key, value)}")
    if answer["state"] == "FAILURE":
        raise SystemExit(ExitCode.FAILED)


def in_words(key: str, value: Any) -> str:
    """``value`` as people read it: times as dates, several lines below each other."""
    if key == "timestamp":
        return datetime.fromtimestamp(value, UTC).isoformat(sep=" ", timespec="milliseconds")
    if key == "runtime":
        return f"{value:.3f} s"
    return str(value).rstrip().replace("\n", "\n" + " " * 11)


def outcome(one: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``events`` of a task add up to: its latest state, and what each told."""
    merged: dict[str, Any] = {}
    state = "PENDING"
    ended = {"SUCCESS", "FAILURE", "REVOKED"}
    # Its sender tells of a task after the broker has it: by then a worker may have told more.
    for event in sorted(events, key=lambda one: one.get("type") != "task-sent"):
        new = STATES.get(event.get("type", ""), state)
        # A task that a worker lost runs again: its later events come after an end only if it really ended twice.
        if state not in ended or new in ended:
            state = new
        merged.update({key: value for key, value in event.items() if value is not None})
    return {
        "id": one,
        "name": merged.get("name"),
        "state": state,
        "args": merged.get("args"),
        "kwargs": merged.get("kwargs"),
        "result": merged.get("result"),
        # What an earlier attempt ended with is not how this one ended.
        "exception": merged.get("exception") if state != "SUCCESS" else None,
        "traceback": merged.get("traceback") if state != "SUCCESS" else None,
        "worker": merged.get("hostname") if state != "PENDING" else None,
        "runtime": merged.get("runtime"),
        "timestamp": merged.get("timestamp"),
    }
