"""Words that no task has any more: each process that ever sent one, and each worker, has left its name."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec

from app.monitor.history.words import Words

__all__ = ["Unused"]

# Words that may stay: to look for some to forget means to look through all tasks.
FEW = 1_000
# Words looked for at once; the numbers of those that are found are kept in memory until all tasks are looked through.
SOME = 20_000
# Rows looked through in one transaction, some 20 ms ...
TASKS = 4_000
MINUTES = 20_000
# ... and words forgotten in one.
AT_ONCE = 1_000

decode_workers = msgspec.msgpack.Decoder(list[tuple[object, object, int, object]]).decode


class Unused:
    """Forgets words, a piece of the work at a time.

    It looks through all tasks and minutes for some of the words, while the writer notes which of these it gives out.
    Those of which neither heard are used by nothing. The newest word always stays: a number is never given out again, so
    that nobody who keeps what it stands for is ever wrong.
    """

    def __init__(self, connection: sqlite3.Connection, words: Words) -> None:
        self._connection = connection
        self._words = words
        self.start_over()

    def start_over(self) -> None:
        """After a transaction that was rolled back: what was seen in it may not be so."""
        self._work = self._rounds()

    def step(self) -> None:
        """Does the next piece, within the caller's transaction."""
        next(self._work)

    def _rounds(self) -> Iterator[None]:
        first = 1
        while True:
            some = self._some(first)
            first = some.stop if some else 1
            if some:
                self._words.watch(some)
                used: set[int] = set()
                for found in self._in_tasks():
                    used.update(key for key in found if key in some)
                    yield
                for found in self._in_minutes():
                    used.update(key for key in found if key in some)
                    yield
                yield from self._forget(some, used)
            else:
                yield

    def _some(self, first: int) -> range:
        """The numbers of the words to look for, from ``first`` on; none where there are few words or no more."""
        ask = self._connection.execute
        if ask("SELECT count(*) FROM (SELECT 1 FROM word LIMIT ?)", (FEW + 1,)).fetchone()[0] <= FEW:
            return range(0)
        query = "SELECT max(key) FROM (SELECT key FROM word WHERE key >= ? ORDER BY key LIMIT ?)"
        last = ask(query, (first, SOME)).fetchone()[0]
        newest = ask("SELECT max(key) FROM word").fetchone()[0]
        return range(0) if last is None else range(first, min(last + 1, newest))

    def _in_tasks(self) -> Iterator[set[int]]:
        query = "SELECT key, name, queue, worker, sender, steps FROM task WHERE key > ? ORDER BY key LIMIT ?"
        key = 0
        while rows := self._connection.execute(query, (key, TASKS)).fetchall():
            key = rows[-1][0]
            found = {one for row in rows for one in row[1:5]}
            found.update(step[2] for row in rows for step in decode_workers(row[5]))
            yield found

    def _in_minutes(self) -> Iterator[set[int]]:
        query = """
            SELECT minute, name, state FROM minute WHERE (minute, name, state) > (?, ?, ?)
            ORDER BY minute, name, state LIMIT ?
        """
        last = (-1, 0, 0)
        while rows := self._connection.execute(query, (*last, MINUTES)).fetchall():
            last = rows[-1]
            yield {name for _, name, _ in rows}

    def _forget(self, some: range, used: set[int]) -> Iterator[None]:
        query = "SELECT key FROM word WHERE key >= ? AND key < ?"
        unused = [key for (key,) in self._connection.execute(query, (some.start, some.stop)) if key not in used]
        for start in range(0, len(unused), AT_ONCE):
            # Asked each time: between two pieces the writer goes on.
            gone = [(key,) for key in unused[start : start + AT_ONCE] if key not in self._words.given]
            self._connection.executemany("DELETE FROM word WHERE key = ?", gone)
            yield
