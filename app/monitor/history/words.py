"""Names of tasks, workers and queues as small numbers: rows and indexes hold millions of them."""

from __future__ import annotations

import sqlite3

__all__ = ["Words"]

# Words kept in memory. There are far fewer as a rule; whoever makes a name for every task must not fill it.
LIMIT = 20_000


class Words:
    """The table `word`, from the writer's side."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._keys: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._watched = range(0)
        self.given: set[int] = set()
        """Those of the watched numbers that were given out since :meth:`watch`."""

    def key(self, text: str | None) -> int:
        """The number of ``text``, a new one if need be; 0 for None. Within the caller's transaction."""
        if text is None:
            return 0
        key = self._keys.get(text)
        return self._look_up(text) if key is None else key

    def text(self, key: int | None) -> str | None:
        """The word with that number; None for 0 and None."""
        if not key:
            return None
        text = self._texts.get(key)
        if text is None:
            row = self._connection.execute("SELECT text FROM word WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            text = str(row[0])
            self._keep(key, text)
        return text

    def forget(self) -> None:
        """After a transaction that was rolled back: its numbers were given to nobody."""
        self._keys.clear()
        self._texts.clear()

    def watch(self, numbers: range) -> None:
        """Notes from now on which of ``numbers`` are given out. Not within a transaction that was given some already."""
        self.forget()
        self._watched, self.given = numbers, set()

    def _look_up(self, text: str) -> int:
        row = self._connection.execute("SELECT key FROM word WHERE text = ?", (text,)).fetchone()
        if row is None:
            row = (self._connection.execute("INSERT INTO word (text) VALUES (?)", (text,)).lastrowid,)
        self._keep(row[0], text)
        return int(row[0])

    def _keep(self, key: int, text: str) -> None:
        if len(self._keys) >= LIMIT:
            self.forget()
        # Whoever asks again is answered from here: so each that is given out passes here once.
        if key in self._watched:
            self.given.add(key)
        self._keys[text] = key
        self._texts[key] = text
