"""How tasks ended, by minute and name: what charts are drawn from, since counting a million rows takes too long."""

from __future__ import annotations

import sqlite3

from app.monitor.history.task import FINAL, RETRY, Task

__all__ = ["COUNTED", "Minutes"]

COUNTED = FINAL | {RETRY}

UPSERT = """
    INSERT INTO minute (minute, name, state, count, runtime, longest) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET count = count + excluded.count, runtime = runtime + excluded.runtime,
        longest = max(longest, excluded.longest)
"""


class Minutes:
    """Adds up until :meth:`flush`."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int, int], tuple[int, float, float]] = {}

    def add(self, task: Task, code: int, stamp: float) -> None:
        key = (int(stamp) // 60, task.name or 0, code)
        runtime = (task.runtime or 0.0) if code != RETRY else 0.0
        before = self._sums.get(key)
        if before is None:
            self._sums[key] = (1, runtime, runtime)
        else:
            count, total, longest = before
            self._sums[key] = (count + 1, total + runtime, max(longest, runtime))

    def flush(self, connection: sqlite3.Connection) -> None:
        """Within the caller's transaction."""
        if self._sums:
            connection.executemany(UPSERT, [(*key, *sums) for key, sums in self._sums.items()])
            self._sums.clear()

    def forget(self) -> None:
        self._sums.clear()
