"""What is forgotten: tasks that changed last long ago, the oldest where there are too many; and names without tasks."""

from __future__ import annotations

from app.monitor.history.store import TEXTS, UNINDEX, History, Told

__all__ = ["prune"]

# Tasks forgotten in one transaction: some 30 ms, in which nothing else is written.
AT_ONCE = 1_000


def prune(history: History, now: float, keep_days: float, keep_tasks: int) -> bool:
    """Forgets some of what is too old or too much, in a transaction of its own. True if there is more to forget.

    Raises:
        sqlite3.DatabaseError: nothing was forgotten.
    """
    before = now - keep_days * 86_400
    excess = max(0, history.tasks - keep_tasks)
    forgotten = 0

    def work() -> list[Told]:
        nonlocal forgotten
        connection = history.connection
        rows = connection.execute(
            f"SELECT key, {', '.join(TEXTS)} FROM task WHERE key IN "  # noqa: S608 - columns of our own
            "(SELECT key FROM task INDEXED BY task_time WHERE time < ? ORDER BY time LIMIT ?) OR key IN "
            "(SELECT key FROM task INDEXED BY task_time ORDER BY time LIMIT ?)",
            (before, AT_ONCE, min(excess, AT_ONCE)),
        ).fetchall()
        connection.executemany(UNINDEX, [row for row in rows if any(row[1:])])
        connection.executemany("DELETE FROM task WHERE key = ?", [row[:1] for row in rows])
        forgotten = len(rows)
        history.tasks -= forgotten
        connection.execute("DELETE FROM minute WHERE minute < ?", (int(before) // 60,))
        history.workers.purge(now)
        history.unused.step()
        return []

    history.transaction(work)
    return forgotten >= AT_ONCE
