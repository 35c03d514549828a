"""Tasks that need attention, found by looking at the history from time to time.

    unclaimed   was sent, for the first time or another try, and no worker received it for longer than it should wait
    stalled     runs for longer than it may, or far longer than its name usually does, while its worker still beats
    orphaned    its worker fell silent, or began anew, before the task ended

It is taken back when the task moves on, or its worker is heard of again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from app.events.decoder import Event
from app.monitor.history.store import SELECT, History, Told, task_of, texts_of
from app.monitor.history.task import (
    ATTENTION,
    ATTENTION_STEP,
    ORPHANED,
    STALLED,
    STARTED,
    SUCCESS,
    UNCLAIMED,
    Task,
    id_text,
    remember,
)

__all__ = ["Attention", "Limits"]

# Tasks of each sort that one look finds anew; the rest is found by the next ones. A queue without workers may hold a
# million, and workers that were told to fetch ahead without a limit as many.
AT_ONCE = 1_000
# Runs from which it is known how long a name usually takes: the last so many that succeeded, and no fewer than some.
RUNS = 200
RUNS_LEAST = 20
# Of them, all but the slowest twentieth.
USUAL = 0.95
# Seconds. What usually takes a moment may well take a minute for once.
STALLED_LEAST = 60.0
# Seconds after its time limit in which a worker kills a task and says so.
LIMIT_MARGIN = 30.0
# Seconds for which the usual runtime of a name is not asked for again.
USUAL_KEPT = 30.0


@dataclass(frozen=True)
class Limits:
    """From when on something is worth attention. Seconds, and ``factor`` times the usual runtime."""

    unclaimed_after: float
    time_limit: float
    """Of a task whose queue nobody knows."""
    factor: float
    time_limits: Mapping[str, float] = field(default_factory=dict)
    """Of the tasks of each queue."""

    def of(self, queue: str | None) -> float:
        """The time limit of a task of ``queue``."""
        return self.time_limits.get(queue or "", self.time_limit)


class Running(NamedTuple):
    """What is asked of each task that is with a worker: as many as all workers hold, every second."""

    key: int
    state: int
    worker: int | None
    name: int | None
    queue: int | None
    at: float
    attention: int


class Attention:
    """Looks for tasks that need attention.

    Args:
        beats: whether a worker, by its name, was heard of lately; None where it could not be heard for long enough yet.
    """

    def __init__(self, history: History, limits: Limits, beats: Callable[[str], bool | None]) -> None:
        self._history = history
        self._limits = limits
        self._beats = beats
        self._usual: dict[int, tuple[float, float | None]] = {}

    def look(self, now: float) -> list[Told]:
        """What is found and taken back by now, written within the caller's transaction; what is new is returned."""
        changed: list[tuple[Task, int]] = [(task, UNCLAIMED) for task in self._unclaimed(now)]
        changed += [(self._task(key), found) for key, found in self._running(now)]
        told = []
        for task, found in changed:
            task.attention = found
            task.attention_since = now if found else None
            if found:
                remember(task.steps, (ATTENTION_STEP + found, now, task.worker or 0, ""))
                told.append(self._told(task, found, now))
        tasks = [task for task, _ in changed]
        self._history.update(tasks, {task.key: texts_of(task) for task in tasks})
        return told

    def counts(self) -> dict[str, int]:
        """How many tasks need which attention now."""
        query = "SELECT attention, count(*) FROM task INDEXED BY task_attention WHERE attention > 0 GROUP BY attention"
        return dict.fromkeys(ATTENTION[1:], 0) | {
            ATTENTION[found]: count for found, count in self._history.connection.execute(query)
        }

    def _unclaimed(self, now: float) -> list[Task]:
        query = f"""
            {SELECT} INDEXED BY task_waiting WHERE state IN (0, 3) AND attention = 0 AND due < ?
            ORDER BY due LIMIT {AT_ONCE}
        """
        rows = self._history.connection.execute(query, (now - self._limits.unclaimed_after,))
        return [task_of(row) for row in rows]

    def _task(self, key: int) -> Task:
        return task_of(self._history.connection.execute(f"{SELECT} WHERE key = ?", (key,)).fetchone())

    def _running(self, now: float) -> list[tuple[int, int]]:
        """Tasks with a worker whose attention is another than before, by their keys."""
        query = f"SELECT {', '.join(Running._fields)} FROM task INDEXED BY task_running WHERE state IN (1, 2)"  # noqa: S608
        found: list[tuple[int, int]] = []
        workers: dict[int | None, tuple[bool | None, float]] = {}
        for row in self._history.connection.execute(query):
            task = Running(*row)
            about = workers.get(task.worker)
            if about is None:
                about = workers[task.worker] = self._about(task.worker)
            attention = self._running_badly(task, *about, now)
            if attention != task.attention:
                found.append((task.key, attention))
                if len(found) == AT_ONCE:
                    break
        return found

    def _about(self, worker: int | None) -> tuple[bool | None, float]:
        """Whether a worker beats, and when it began as far as is known."""
        name = self._history.words.text(worker) or ""
        known = self._history.workers.known.get(name)
        return self._beats(name), (known.online if known else None) or 0.0

    def _running_badly(self, task: Running, beats: bool | None, online: float, now: float) -> int:
        if beats is False or online > task.at:
            return ORPHANED
        if beats is None:
            # What was found before a restart or an outage stays found; and its end may be on its way.
            return task.attention
        if task.state == STARTED:
            ran = now - task.at
            usual = self._usual_of(task.name, now) if ran > STALLED_LEAST else None
            limit = self._limits.of(self._history.words.text(task.queue))
            if ran > limit + LIMIT_MARGIN or (usual is not None and ran > self._limits.factor * usual):
                return STALLED
        return 0

    def _usual_of(self, name: int | None, now: float) -> float | None:
        """Seconds that nearly all of the last runs of a name took at most; None where too few are known."""
        if name is None:
            return None
        kept = self._usual.get(name)
        if kept is not None and kept[0] > now:
            return kept[1]
        query = f"""
            SELECT runtime FROM task INDEXED BY task_name WHERE name = ? AND state = {SUCCESS} AND runtime IS NOT NULL
            ORDER BY time DESC LIMIT {RUNS}
        """  # noqa: S608 - numbers of our own
        runs = sorted(row[0] for row in self._history.connection.execute(query, (name,)))
        usual = runs[int(len(runs) * USUAL)] if len(runs) >= RUNS_LEAST else None
        if len(self._usual) > AT_ONCE:
            self._usual.clear()
        self._usual[name] = (now + USUAL_KEPT, usual)
        return usual

    def _told(self, task: Task, found: int, now: float) -> Told:
        text = self._history.words.text
        event = Event(
            type=f"task-{ATTENTION[found]}",
            timestamp=now,
            uuid=id_text(task.id),
            hostname=text(task.worker),
            queue=text(task.queue),
        )
        return Told(event, task, text(task.name) or "unknown", -1)
