"""The reading side of the history: searches, single tasks, families, workers, charts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time

from app.monitor.history import shape
from app.monitor.history.aggregates import COUNTED
from app.monitor.history.clock import rfc3339
from app.monitor.history.filter import Filter, Page, Row
from app.monitor.history.schema import connect
from app.monitor.history.search import Search
from app.monitor.history.store import SELECT, task_of
from app.monitor.history.task import ATTENTION, FAILURE, RETRY, REVOKED, STATES, SUCCESS, as_id
from app.monitor.history.vocabulary import Vocabulary

__all__ = ["Reader"]

# KiB of pages: the upper levels of the indexes that searches go through.
CACHE = 6_000
# Tasks counted one by one; there are more than that only while something is very wrong.
COUNT_LIMIT = 200_000
# Tasks of a family, and children of a task, that are shown.
FAMILY = 500
CHILDREN = 100
# Seconds without a heartbeat after which a worker is not taken for alive: as Celery, two of its 2 s, and as much again
# for a monitor that lags a little.
ALIVE = 8.0


class Reader:
    """One read-only connection to a history, for one thread at a time.

    Raises:
        sqlite3.DatabaseError: there is no history, or it is damaged; open another Reader then.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, readonly=True, cache=CACHE)
        self._words = Vocabulary(self._connection)
        self._search = Search(self._connection, self._words)

    def close(self) -> None:
        self._connection.close()

    def tasks(self, filter: Filter) -> Page:
        """Tasks that match.

        Raises:
            ValueError: the filter makes no sense; the text says which part of it.
        """
        return self._search.tasks(filter)

    def task(self, id: str) -> Row | None:
        """Everything of one task, or None."""
        row = self._connection.execute(f"{SELECT} WHERE id = ?", (as_id(id),)).fetchone()
        if row is None:
            return None
        task = task_of(row)
        query = f"{SELECT} WHERE parent = ? ORDER BY time LIMIT {CHILDREN}"
        children = [task_of(one) for one in self._connection.execute(query, (task.id,))]
        return shape.full(task, self._words.text) | {
            "children": [shape.summary(child, self._words.text) for child in children]
        }

    def family(self, root_id: str) -> list[Row]:
        """The tasks that began with ``root_id``, itself included, in the order of their last changes."""
        root = as_id(root_id)
        query = f"{SELECT} WHERE id = ? UNION ALL {SELECT} WHERE root = ? LIMIT {FAMILY}"
        tasks = [task_of(row) for row in self._connection.execute(query, (root, root))]
        return [shape.summary(task, self._words.text) for task in sorted(tasks, key=lambda task: task.time)]

    def workers(self) -> list[Row]:
        """Workers of the last day."""
        now = time()
        rows = self._connection.execute(
            "SELECT name, heartbeat, online, offline, active, processed, pid, software, load FROM worker ORDER BY name"
        )
        return [
            {
                "name": name,
                "alive": offline is None and heartbeat > now - ALIVE,
                "heartbeat": rfc3339(heartbeat),
                "active": active,
                "processed": processed,
                "pid": pid,
                "software": software,
                "load": [float(value) for value in load.split()] if load else None,
                "since": rfc3339(online),
            }
            for name, heartbeat, online, offline, active, processed, pid, software, load in rows
        ]

    def counts(self) -> Row:
        """How many tasks ended in which state in the last 24 hours, are on their way, and need attention."""
        since = int(time()) // 60 - 24 * 60
        states = dict.fromkeys(STATES, 0)
        query = "SELECT state, sum(count) FROM minute WHERE minute >= ? GROUP BY state"
        for state, count in self._connection.execute(query, (since,)):
            if state in COUNTED and state != RETRY:
                states[STATES[state]] = count
        for state in ("PENDING", "RECEIVED", "STARTED", "RETRY"):
            query = (
                "SELECT count(*) FROM (SELECT 1 FROM task INDEXED BY task_state WHERE state = ? AND state <> 4 LIMIT ?)"
            )
            states[state] = self._connection.execute(query, (STATES.index(state), COUNT_LIMIT)).fetchone()[0]
        attention = dict.fromkeys(ATTENTION[1:], 0)
        query = "SELECT attention, count(*) FROM task INDEXED BY task_attention WHERE attention > 0 GROUP BY attention"
        for one, count in self._connection.execute(query):
            attention[ATTENTION[one]] = count
        return {"states": states, "attention": attention}

    def chart(self, since: datetime, until: datetime, points: int, name: str | None = None) -> list[Row]:
        """How tasks ended over time, in ``points`` steps of whole minutes.

        Raises:
            ValueError: ``name`` is a pattern that stands for too many.
        """
        start, end = int(since.timestamp()) // 60, -(-int(until.timestamp()) // 60)
        step = max(1, -(-(end - start) // max(1, points)))
        conditions, values = "minute >= ? AND minute < ?", [start, end]
        if name:
            keys = self._words.keys("name", name)
            conditions += f" AND name IN ({','.join('?' * len(keys))})"
            values += keys
        query = f"""
            SELECT (minute - {start}) / {step}, state, sum(count), sum(runtime), max(longest) FROM minute
            WHERE {conditions} GROUP BY 1, 2
        """  # noqa: S608
        found = {(place, state): rest for place, state, *rest in self._connection.execute(query, values)}
        rows = []
        for place in range(-(-(end - start) // step)):
            count = {state: found.get((place, state), (0, 0.0, 0.0)) for state in COUNTED}
            ran = count[SUCCESS][0] + count[FAILURE][0]
            rows.append(
                {
                    "time": rfc3339((start + place * step) * 60.0),
                    "succeeded": count[SUCCESS][0],
                    "failed": count[FAILURE][0],
                    "retried": count[RETRY][0],
                    "revoked": count[REVOKED][0],
                    "runtime_mean": (count[SUCCESS][1] + count[FAILURE][1]) / ran if ran else None,
                    "runtime_max": max(count[SUCCESS][2], count[FAILURE][2]) if ran else None,
                }
            )
        return rows

    def names(self) -> list[str]:
        """The names of the tasks in the history, those heard of first where there are more than 10,000."""
        return self._words.listed("name")

    def queues(self) -> list[str]:
        """The queues that tasks of the last day were sent to."""
        since = (datetime.now(UTC) - timedelta(days=1)).timestamp()
        query = f"SELECT DISTINCT queue FROM (SELECT queue FROM task WHERE time >= ? ORDER BY time DESC LIMIT {COUNT_LIMIT})"  # noqa: S608
        found = (self._words.text(row[0]) for row in self._connection.execute(query, (since,)))
        return sorted(name for name in found if name)
