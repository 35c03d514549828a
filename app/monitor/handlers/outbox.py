"""What waits for which handler, in the history's database.

    handler(name TEXT PRIMARY KEY, after INTEGER NOT NULL)      since which offset of the log it gets events
    outbox(key INTEGER PRIMARY KEY AUTOINCREMENT, handler TEXT NOT NULL, event TEXT NOT NULL), index on (handler, key)

The history's writer calls the functions in transactions of its own; a handler's thread has an :class:`Outbox`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from time import time

from app.monitor.history.schema import CHECKPOINT_PAGES, PLACE, open_wholly

__all__ = ["BOUND", "Outbox", "enroll", "identity", "positions", "retire", "trim"]

# Rows that may wait for one handler: at some 500 bytes each, half a gigabyte of the volume.
BOUND = 1_000_000
# Seconds that a statement waits for the lock. Short, since a thread looks in between whether the writer has noted its
# progress, and whether it is to stop; then it asks again.
BUSY_TIMEOUT = 0.05
# Rows read at once ...
BATCH = 100
# ... and characters, since a single traceback may be megabytes: what ten handlers hold in memory must stay small.
BATCH_SIZE = 1_000_000

logger = logging.getLogger("warren.monitor")


def enroll(connection: sqlite3.Connection, names: Iterable[str], offset: int) -> tuple[str, ...]:
    """Gives each handler that is new the log's ``offset`` as its position, and returns the names of the new ones.

    It is to get what comes after that. Positions that are there stay.
    """
    # Keys tell a receiver what it got twice, so they must also differ from those of a history that was set aside:
    # microseconds of today are ahead of any number of events, and exact in the floats that JSON has for numbers.
    connection.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'outbox', ? "
        "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'outbox')",
        (int(time() * 1e6),),
    )
    return tuple(
        name
        for name in names
        if connection.execute(
            "INSERT INTO handler (name, after) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, offset)
        ).rowcount
    )


def positions(connection: sqlite3.Connection) -> dict[str, int]:
    """The offset by handler after which each gets events."""
    return dict(connection.execute("SELECT name, after FROM handler"))


def trim(connection: sqlite3.Connection, name: str, bound: int = BOUND) -> int:
    """Drops the oldest of what waits for a handler beyond ``bound`` rows, and returns how many these were.

    It costs microseconds while fewer are there, and some 30 ms to count a million.
    """
    ends = connection.execute(
        "SELECT (SELECT min(key) FROM outbox WHERE handler = :name), (SELECT max(key) FROM outbox WHERE handler = :name)",
        {"name": name},
    ).fetchone()
    if ends[0] is None or ends[1] - ends[0] < bound:
        return 0
    return connection.execute(
        "DELETE FROM outbox WHERE handler = :name AND key <= "
        "(SELECT key FROM outbox WHERE handler = :name ORDER BY key DESC LIMIT 1 OFFSET :bound)",
        {"name": name, "bound": bound},
    ).rowcount


def retire(connection: sqlite3.Connection, names: Collection[str]) -> tuple[str, ...]:
    """Removes position and waiting events of every handler but ``names``, says so in a line, and returns whose."""
    gone = sorted(set(positions(connection)) - set(names))
    said = []
    for name in gone:
        count = connection.execute("DELETE FROM outbox WHERE handler = ?", (name,)).rowcount
        connection.execute("DELETE FROM handler WHERE name = ?", (name,))
        said.append(f"{name} ({count} events waited)")
    if gone:
        logger.warning("removed handlers that are no longer registered: %s", ", ".join(said))
    return tuple(gone)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file from another one that takes its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Outbox:
    """One handler's rows, on a connection for one thread. Each method is a transaction of its own.

    Raises:
        sqlite3.Error: on construction and by every method: the file is missing, busy, corrupt, or its volume full.
    """

    def __init__(self, path: Path, handler: str) -> None:
        self._path = path
        self._handler = handler
        # Asked first: a file that takes the place of this one in between is then opened again, which does no harm.
        self.identity = identity(path)
        # Never makes the file: an empty one would be in the way of a history that is about to be rebuilt.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with PLACE:
            self._connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
            try:
                open_wholly(self._connection)
            except BaseException:
                self._connection.close()
                raise
        # A power cut may bring back rows whose delivery was noted; the file stays whole.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        # KiB. Rows are read once, in order; SQLite's default of 2 MB for each handler would be kept for nothing.
        self._connection.execute("PRAGMA cache_size = -512")
        # The writer's own measure: whoever commits next does the work.
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    def close(self) -> None:
        self._connection.close()

    def moved(self) -> bool:
        """Whether another file has taken the place of the one that is open: SQLite would never notice."""
        return identity(self._path) != self.identity

    def read(self, after: int) -> list[tuple[int, str]]:
        """The next rows, key and event, at most about a megabyte of them."""
        rows: list[tuple[int, str]] = []
        size = 0
        cursor = self._connection.execute(
            "SELECT key, event FROM outbox WHERE handler = ? AND key > ? ORDER BY key LIMIT ?",
            (self._handler, after, BATCH),
        )
        try:
            for key, event in cursor:
                rows.append((key, event))
                size += len(event)
                if size >= BATCH_SIZE:
                    break
        finally:
            cursor.close()
        return rows

    def delete(self, up_to: int) -> None:
        """Removes the rows up to a key. It asks for no lock where they are gone already."""
        where = (self._handler, up_to)
        if self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM outbox WHERE handler = ? AND key <= ?)", where
        ).fetchone()[0]:
            try:
                self._connection.execute("DELETE FROM outbox WHERE handler = ? AND key <= ?", where)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
                    self._make_room()
                raise

    def _make_room(self) -> None:
        """Moves the write-ahead log into the file, where its pages have their place already, so that it begins anew.

        On a full volume it can't grow to the length at which that is done by itself.
        """
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
