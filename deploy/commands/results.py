"""What became of a task, from the monitor or the event log: rpc:// results reach only the process that sent it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from app.monitor.lines import printable
from deploy.commands.control import task_id
from deploy.commands.log import events_of, folded
from deploy.commands.task import known
from deploy.errors import ExitCode
from deploy.output import print_json, say
from deploy.session import Session

__all__ = ["outcome", "result"]


def result(s: Session, asked: str, as_json: bool) -> None:
    """The state of a task as the monitor knows it, or else as the event log tells it."""
    one = task_id(asked)
    answer = outcome(known(s, one) or folded(one, events_of(s, one)))
    if as_json:
        print_json(answer)
    else:
        for key, value in answer.items():
            if value not in (None, ""):
                say(f"{key:<10} {in_words(key, value)}")
    if answer["state"] == "FAILURE":
        raise SystemExit(ExitCode.FAILED)


def outcome(task: dict[str, Any]) -> dict[str, Any]:
    """What became of ``task``, of all that is known of it."""
    # What an earlier attempt ended with is not how this one ended.
    went_well = task["state"] == "SUCCESS"
    time = task.get("time")
    return {
        "id": task["id"],
        "name": task.get("name"),
        "state": task["state"],
        **{key: task.get(key) for key in ("args", "kwargs", "result")},
        **{key: None if went_well else task.get(key) for key in ("exception", "traceback")},
        "worker": task.get("worker") if task["state"] != "PENDING" else None,
        "runtime": task.get("runtime"),
        "timestamp": datetime.fromisoformat(time).timestamp() if time else None,
    }


def in_words(key: str, value: Any) -> str:
    """``value`` as people read it: times as dates, several lines below each other."""
    if key == "timestamp":
        return datetime.fromtimestamp(value, UTC).isoformat(sep=" ", timespec="milliseconds")
    if key == "runtime":
        return f"{value:.3f} s"
    return "\n".join(printable(line) for line in str(value).rstrip().splitlines()).replace("\n", "\n" + " " * 11)
