"""Names of tasks, workers and queues, from the reader's side."""

from __future__ import annotations

import fnmatch
import sqlite3
from collections.abc import Iterator
from itertools import islice

__all__ = ["Vocabulary"]

# Names that a pattern may stand for, and that are listed. There are more only where each task has a name of its own; and
# SQLite takes no more than 32,766 values in a question.
WORDS = 10_000
# Words kept in memory.
KEPT = 1_000


class Vocabulary:
    """The table `word`, read on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._texts: dict[int, str] = {}

    def text(self, key: int | None) -> str | None:
        """The word with that number; None for 0 and None, nothing where there is no such word."""
        if not key:
            return None
        text = self._texts.get(key)
        if text is None:
            row = self._connection.execute("SELECT text FROM word WHERE key = ?", (key,)).fetchone()
            text = str(row[0]) if row else ""
            if len(self._texts) > KEPT:
                self._texts.clear()
            self._texts[key] = text
        return text

    def keys(self, column: str, asked: str) -> list[int]:
        """The numbers of what ``asked`` stands for, a word or a pattern.

        Raises:
            ValueError: a pattern that stands for too many.
        """
        if "*" not in asked and "?" not in asked:
            row = self._connection.execute("SELECT key FROM word WHERE text = ?", (asked,)).fetchone()
            return [row[0]] if row else []
        # Queues are not worth an index of their own; there are few words that look like one.
        words = self._connection.execute("SELECT key, text FROM word") if column == "queue" else self._of(column)
        found = [key for key, text in words if fnmatch.fnmatchcase(text, asked)]
        if len(found) > WORDS:
            raise ValueError(f"{column}: {asked!r} stands for more than {WORDS:,}; write more of it")
        return found

    def listed(self, column: str) -> list[str]:
        """The words that ``column`` has, in order; those heard of first where there are more than 10,000."""
        return sorted(text for _, text in islice(self._of(column), WORDS))

    def _of(self, column: str) -> Iterator[tuple[int, str]]:
        """The words that ``column`` has, by hopping through its index."""
        query = f"""
            WITH RECURSIVE hop (value) AS (
                SELECT min({column}) FROM task
                UNION ALL SELECT (SELECT min({column}) FROM task WHERE {column} > value) FROM hop WHERE value IS NOT NULL
            )
            SELECT key, text FROM hop JOIN word ON key = value
        """  # noqa: S608 - columns of our own
        yield from self._connection.execute(query)
