"""Flower's state as plain data and back: dicts, lists, texts and numbers, so that reading a file never runs what it says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeAlias

from app.events.position import Position
from app.flower.state import State

__all__ = ["Snapshot", "restore"]

Row: TypeAlias = dict[str, Any]

# Tasks in one piece of the file. Making it holds up all other threads: for less than a millisecond.
PIECE = 100

# What is not made anew from the rest.
TASK_FIELDS = tuple(sorted({*State.Task._fields} - {"worker", "root", "parent", "children"}))
WORKER_FIELDS = (*State.Worker._fields, "timestamp")


class Snapshot:
    """The state at one place of the log. Taken by the state's thread, within some 20 ms for 20,000 tasks; read by any."""

    def __init__(self, state: State, position: Position, clock: int) -> None:
        self.position = position
        self._head = {
            "position": list(position),
            "clock": clock,
            "events": state.event_count,
            "tasks": state.task_count,
            "counters": {name: dict(counter) for name, counter in state.counts().items()},
            "workers": [
                {field: getattr(worker, field, None) for field in WORKER_FIELDS} | {"heartbeats": [*worker.heartbeats]}
                for worker in state.workers.values()
            ],
        }
        # Whole, since choosing what to keep takes longer and can be done later.
        self._tasks = [
            (task.__dict__.copy(), task.worker and task.worker.hostname) for task in state.tasks.data.values()
        ]

    def pieces(self) -> Iterator[Any]:
        """Plain data, a little at a time."""
        yield self._head
        tasks = iter(self._tasks)
        while piece := list(islice(tasks, PIECE)):
            yield [row(fields, worker) for fields, worker in piece]


def row(fields: dict[str, Any], worker: str | None) -> Row:
    made = {name: fields[name] for name in TASK_FIELDS if name in fields}
    made["worker"] = worker
    return made


def restore(pieces: Iterator[Any], state: State) -> tuple[Position, int]:
    """Fills an empty state; the place in the log that it was taken at, and its clock.

    Of more tasks than the state may hold, the newest are taken.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not what a :class:`Snapshot` gave.
    """
    head = next(pieces)
    offset, checksum = head["position"]
    state.event_count, state.task_count = int(head["events"]), int(head["tasks"])
    for name, counter in head["counters"].items():
        state.counter[name].update(counter)
    for fields in head["workers"]:
        timestamp = fields.pop("timestamp")
        worker = state.workers[fields["hostname"]] = state.Worker(**fields)
        worker.timestamp = timestamp
    for piece in pieces:
        for fields in piece:
            add_task(state, fields)
    for task in state.tasks.data.values():
        if (parent := state.tasks.data.get(task.parent_id)) is not None:
            parent.children.add(task)
    state.search_engine.rebuild(state.tasks.data.items())
    return Position(int(offset), int(checksum)), int(head["clock"])


def add_task(state: State, fields: Row) -> None:
    name = fields.pop("worker")
    task = state.Task(cluster_state=state, **fields)
    # As when its events came: a worker that was purged is known to its tasks only.
    task.worker = None if name is None else state.workers.data.get(name) or state.Worker(name)
    state.tasks[task.uuid] = task
    if task.name is not None:
        state._seen_types.add(task.name)
        state.tasks_by_type[task.name].add(task)
        if name is not None:
            state.tasks_by_worker[name].add(task)
