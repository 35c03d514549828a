"""The writer of the history: events, the log's offset and all that is derived from them in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from msgspec.structs import astuple

from app.events.decoder import Decoder, Event
from app.events.position import Position
from app.monitor.history.aggregates import COUNTED, Minutes
from app.monitor.history.schema import open_history
from app.monitor.history.task import CODES, PENDING, Id, Task, apply, as_id
from app.monitor.history.unused import Unused
from app.monitor.history.words import Words
from app.monitor.history.workers import Workers

__all__ = ["History", "Told"]

COLUMNS = tuple(field.name for field in msgspec.structs.fields(Task))
TEXTS = ("args", "kwargs", "result", "exception", "traceback")

# Ids looked up by one statement, in the order of the index.
LOOKUP = 10_000

SELECT = f"SELECT {', '.join(COLUMNS)} FROM task"  # noqa: S608 - columns of our own
INSERT = f"INSERT INTO task ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
UPDATE = f"UPDATE task SET {', '.join(f'{column} = ?' for column in COLUMNS[2:])} WHERE key = ?"  # noqa: S608
INDEX = f"INSERT INTO task_text (rowid, {', '.join(TEXTS)}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
UNINDEX = f"INSERT INTO task_text (task_text, rowid, {', '.join(TEXTS)}) VALUES ('delete', ?, ?, ?, ?, ?, ?)"  # noqa: S608

encode = msgspec.msgpack.Encoder().encode
decode_steps = msgspec.msgpack.Decoder(list[tuple[int, float, int, str]]).decode


class Told(NamedTuple):
    """An event that the history had not heard before, and its task; no task for a worker's own events."""

    event: Event
    task: Task | None
    name: str
    """The task's, or "unknown"."""
    offset: int
    """Of its message in the log; -1 for what the monitor found itself."""


class History:
    """The history in a folder. Used by one thread.

    Raises:
        app.monitor.history.schema.NewerSchema, sqlite3.DatabaseError: on construction, as
            :func:`app.monitor.history.schema.open_history`.
    """

    def __init__(self, folder: Path) -> None:
        self.connection = open_history(folder)
        self.decoder = Decoder()
        self.words = Words(self.connection)
        self.workers = Workers(self.connection)
        self.unused = Unused(self.connection, self.words)
        self.minutes = Minutes()
        row = self.connection.execute("SELECT offset, checksum FROM position").fetchone()
        self.position = Position(*row) if row else None
        self.tasks = int(self.connection.execute("SELECT count(*) FROM task").fetchone()[0])
        """How many tasks are in the history."""
        self._key = int(self.connection.execute("SELECT coalesce(max(key), 0) FROM task").fetchone()[0])

    def close(self) -> None:
        self.connection.close()

    def write(
        self, messages: Sequence[tuple[int, bytes]], also: Callable[[list[Told]], None] | None = None
    ) -> list[Told]:
        """Takes messages of the log into the history, all or none.

        Args:
            messages: offsets and bodies, in the order of the log.
            also: called within the transaction, to write what belongs to it.

        Raises:
            sqlite3.DatabaseError: nothing was written; the history is as it was before.
        """
        heard: list[tuple[int, Event]] = []
        skipped = self.decoder.malformed.copy()
        for offset, body in messages:
            for event in self.decoder.events(offset, body):
                heard.append((offset, event))

        def fold() -> list[Told]:
            told = self._fold(heard)
            if messages:
                offset, body = messages[-1]
                self._move(Position(offset, crc32(body)))
            return told

        try:
            return self.transaction(fold, also)
        except BaseException:
            # The same messages come again, and what is malformed among them is counted then.
            self.decoder.malformed.clear()
            self.decoder.malformed.update(skipped)
            raise

    def skip(self, offset: int, body: bytes) -> None:
        """Moves on behind a message of the log without taking it.

        Raises:
            sqlite3.DatabaseError: as :meth:`write`.
        """

        def work() -> list[Told]:
            self._move(Position(offset, crc32(body)))
            return []

        self.transaction(work)

    def transaction(
        self, work: Callable[[], list[Told]], also: Callable[[list[Told]], None] | None = None
    ) -> list[Told]:
        """``work``, and ``also`` with what it returns, in one transaction."""
        tasks, key, position = self.tasks, self._key, self.position
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            told = work()
            self.minutes.flush(self.connection)
            self.workers.flush()
            if also is not None:
                also(told)
            self.connection.execute("COMMIT")
        except BaseException:
            self.tasks, self._key, self.position = tasks, key, position
            self._roll_back()
            raise
        return told

    def _roll_back(self) -> None:
        self.minutes.forget()
        self.words.forget()
        self.unused.start_over()
        try:
            # A full disk may have ended the transaction already.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            self.workers.reload()
        except sqlite3.DatabaseError:
            # What led here says more, and is raised.
            pass

    def _move(self, position: Position) -> None:
        self.connection.execute("INSERT OR REPLACE INTO position (only, offset, checksum) VALUES (1, ?, ?)", position)
        self.position = position

    def start_over(self) -> None:
        """Forgets the position: the log is another one. What both tell is recognised and not doubled."""
        self.connection.execute("DELETE FROM position")
        self.position = None

    def _fold(self, heard: Sequence[tuple[int, Event]]) -> list[Told]:
        told: list[Told] = []
        uuids = {event.uuid for _, event in heard}
        ids = {uuid: as_id(uuid) for uuid in uuids if uuid is not None}
        loaded = self.load(ids)
        texts = {task.key: texts_of(task) for task in loaded.values()}
        tasks = dict(loaded)
        fresh: dict[str, Task] = {}
        changed: dict[int, Task] = {}
        key_of, name_of, minutes = self.words.key, self.words.text, self.minutes
        for offset, event in heard:
            code = CODES.get(event.type)
            if code is None:
                self.workers.hear(event)
                told.append(Told(event, None, "", offset))
                continue
            uuid = event.uuid or ""
            task = tasks.get(uuid)
            if task is None:
                task = tasks[uuid] = fresh[uuid] = Task(0, ids[uuid], PENDING)
            host = key_of(event.hostname)
            if event.name is not None and task.name is None:
                task.name = key_of(event.name)
            if event.queue is not None:
                task.queue = key_of(event.queue)
            if not apply(task, event, code, host):
                continue
            if task.key:
                changed[task.key] = task
            if code in COUNTED:
                minutes.add(task, code, event.timestamp)
            told.append(Told(event, task, name_of(task.name) or "unknown", offset))
        self._insert(fresh.values())
        self.update(changed.values(), texts)
        return told

    def load(self, ids: dict[str, Id]) -> dict[str, Task]:
        """Those tasks of ``ids`` that the history has, by their id as text."""
        texts = {id_: text for text, id_ in ids.items()}
        found: dict[str, Task] = {}
        wanted = sorted(texts, key=order)
        for start in range(0, len(wanted), LOOKUP):
            some = wanted[start : start + LOOKUP]
            query = f"{SELECT} WHERE id IN ({','.join('?' * len(some))})"
            for row in self.connection.execute(query, some):
                found[texts[row[1]]] = task_of(row)
        return found

    def _insert(self, tasks: Iterable[Task]) -> None:
        rows = []
        index = []
        key = self._key
        for task in tasks:
            key += 1
            task.key = key
            rows.append(row_of(task))
            texts = texts_of(task)
            # As `update` and whoever forgets tasks ask: the index of texts must not be told to drop what it never had.
            if any(texts):
                index.append((key, *texts))
        if rows:
            self.connection.executemany(INSERT, rows)
            self.connection.executemany(INDEX, index)
            self._key = key
            self.tasks += len(rows)

    def update(self, tasks: Iterable[Task], texts: dict[int, tuple[Any, ...]]) -> None:
        """Writes tasks that are in the history; ``texts`` are those that its index of texts has of them, by key."""
        rows, unindex, index = [], [], []
        for task in tasks:
            row = row_of(task)
            rows.append((*row[2:], task.key))
            before, after = texts[task.key], texts_of(task)
            if before != after:
                if any(before):
                    unindex.append((task.key, *before))
                if any(after):
                    index.append((task.key, *after))
        if rows:
            self.connection.executemany(UPDATE, rows)
            self.connection.executemany(UNINDEX, unindex)
            self.connection.executemany(INDEX, index)


def order(id_: Id) -> tuple[bool, Id]:
    return isinstance(id_, str), id_


def texts_of(task: Task) -> tuple[str | None, ...]:
    return task.args, task.kwargs, task.result, task.exception, task.traceback


def row_of(task: Task) -> tuple[Any, ...]:
    return *astuple(task)[:-1], encode(task.steps)


def task_of(row: Sequence[Any]) -> Task:
    return Task(*row[:-1], decode_steps(row[-1]))  # type: ignore[call-arg]
